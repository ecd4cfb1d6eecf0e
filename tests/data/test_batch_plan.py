"""The plan: every epoch holds each sample once, whatever stops, resumes and changes the number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.data import plan
from rayseg.errors import UsageError

WORLDS = [1, 2, 4]


def naive_stream(samples: int, seed: int, length: int) -> list[int]:
    """The definition, written out: one permutation after the other."""
    stream: list[int] = []
    epoch = 0
    while len(stream) < length:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        stream += rng.permutation(samples).tolist()
        epoch += 1
    return stream[:length]


@settings(deadline=None)
@given(
    samples=st.integers(1, 60),
    quarter=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    legs=st.lists(st.tuples(st.sampled_from(WORLDS), st.integers(0, 9)), min_size=1, max_size=5),
)
def test_each_epoch_holds_each_sample_once(samples: int, quarter: int, seed: int, legs: list[tuple[int, int]]) -> None:
    """A run is killed after each leg and goes on, by its step alone, with another number of ranks."""
    batch, step, read = 4 * quarter, 0, list[plan.Position]()
    for world, steps in legs:
        for step_of_leg in range(step, step + steps):
            parts = [
                plan.positions(plan.make(samples, batch, seed, rank=rank, world=world), step_of_leg)
                for rank in range(world)
            ]
            assert {len(part) for part in parts} == {batch // world}
            read += [parts[place % world][place // world] for place in range(batch)]
        step += steps
    assert [place.stream for place in read] == list(range(step * batch))
    assert [place.sample for place in read] == naive_stream(samples, seed, step * batch)
    for epoch in range(step * batch // samples):
        assert Counter(place.sample for place in read if place.epoch == epoch) == Counter(range(samples))


@settings(deadline=None)
@given(samples=st.integers(0, 50), world=st.integers(1, 9))
def test_evaluation_holds_each_sample_once(samples: int, world: int) -> None:
    parts = [plan.shard_for_rank(samples, rank, world) for rank in range(world)]
    assert sorted(i for part in parts for i in part) == list(range(samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = ([place.sample for place in plan.positions(plan.make(100, 100, 5), step)] for step in (0, 1))
    other = [place.sample for place in plan.positions(plan.make(100, 100, 6), 0)]
    assert first != second
    assert first != other
    assert first != sorted(first)


def test_augmentation_depends_on_seed_epoch_and_key() -> None:
    def draw(seed: int, epoch: int, key: str) -> float:
        return float(plan.augmentation_rng(seed, epoch, key).random())

    assert draw(1, 2, "a3") == draw(1, 2, "a3")
    drawn = {draw(*arguments) for arguments in [(1, 2, "a3"), (2, 2, "a3"), (1, 3, "a3"), (1, 2, "a4"), (2, 1, "a3")]}
    assert len(drawn) == 5


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), mixed=st.integers(1, 13), epoch=st.integers(0, 3))
def test_mixed_shards_keep_an_epoch_whole_and_read_few_shards_in_turn(
    lengths: list[int], mixed: int, epoch: int
) -> None:
    made = plan.make(sum(lengths), 1, 3, mixed_shards=mixed, shard_lengths=tuple(lengths))
    order = plan.order(made, epoch).tolist()
    assert sorted(order) == list(range(sum(lengths)))
    shard_of = np.repeat(np.arange(len(lengths)), lengths)[order].tolist()
    spans = [(shard_of.index(i), len(shard_of) - 1 - shard_of[::-1].index(i)) for i in range(len(lengths))]
    for place in range(len(order)):
        assert sum(first <= place <= last for first, last in spans) <= mixed


def test_mixed_shards_shuffle_shards_and_samples() -> None:
    made = plan.make(400, 4, 3, mixed_shards=4, shard_lengths=(20,) * 20)
    orders = [plan.order(made, epoch) for epoch in (0, 1)]
    assert (orders[0] != orders[1]).mean() > 0.9
    firsts = [np.unique(order[:80] // 20) for order in orders]
    assert [len(first) for first in firsts] == [4, 4]
    assert firsts[0].tolist() != firsts[1].tolist()
    assert len(set((orders[0][:20] // 20).tolist())) > 1, "within a window the shards are mixed"


@pytest.mark.parametrize(("samples", "batch", "world"), [(0, 4, 1), (10, 0, 1), (10, -2, 1), (10, 7, 2)])
def test_a_plan_that_cannot_be(samples: int, batch: int, world: int) -> None:
    with pytest.raises(UsageError):
        plan.make(samples, batch, 0, world=world)


def test_epochs_are_counted() -> None:
    assert plan.epoch_of(plan.make(10, 4, 0), 5) == 2.0

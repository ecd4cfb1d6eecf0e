"""Which samples make up which batch: pure functions of (seed, step, global batch, rank, world).

The stream is the endless concatenation of one permutation per epoch; the global batch of step s is the stream from
s*B to (s+1)*B, and may straddle two epochs. So an epoch holds each sample exactly once, without padding and without
dropping, each rank has as many batches as any other, and a step alone says where a resumed run goes on, on any number
of ranks that divides B. How the samples lie in shards changes nothing, unless `mixed_shards` is set.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.errors import UsageError

Order = NDArray[np.int64]


class Position(NamedTuple):
    """One place of the stream: which sample it holds, in which epoch, and how far from the stream's start."""

    sample: int
    epoch: int
    stream: int


class Plan(NamedTuple):
    """What fixes every batch of a run for one rank; build it with `make`, which checks it."""

    samples: int
    global_batch: int
    seed: int
    rank: int = 0
    world: int = 1
    mixed_shards: int = 0
    shard_lengths: tuple[int, ...] = ()


def make(
    samples: int,
    global_batch: int,
    seed: int,
    *,
    rank: int = 0,
    world: int = 1,
    mixed_shards: int | None = None,
    shard_lengths: tuple[int, ...] = (),
) -> Plan:
    """Make a plan.

    With `mixed_shards` an epoch goes through the shards, in a random order, so many at a time, and shuffles samples
    within those alone: what a disk needs that holds a part of the shards only. `shard_lengths` says how many samples
    lie in each, in their order.

    Raises:
        UsageError: no samples, or a global batch that the ranks cannot share evenly.
    """
    assert 0 <= rank < world
    if samples < 1:
        raise UsageError("a plan over no samples", "data", "choose a split that has some")
    if global_batch < 1 or global_batch % world:
        raise UsageError(
            f"a global batch of {global_batch} does not split over {world} workers",
            "batch",
            f"use a multiple of {world}",
        )
    if mixed_shards is None:
        return Plan(samples, global_batch, seed, rank, world)
    assert sum(shard_lengths) == samples
    return Plan(samples, global_batch, seed, rank, world, mixed_shards, shard_lengths)


def positions(plan: Plan, step: int) -> list[Position]:
    """Say what rank `plan.rank` reads for `step`: every `world`-th place of the global batch from `rank` on."""
    start = step * plan.global_batch
    places = np.arange(start + plan.rank, start + plan.global_batch, plan.world)
    found = list[Position]()
    for epoch in range(int(places[0]) // plan.samples, int(places[-1]) // plan.samples + 1):
        first = epoch * plan.samples
        here = places[(places >= first) & (places < first + plan.samples)]
        samples = order(plan, epoch)[here - first].tolist()
        found += [Position(sample, epoch, place) for sample, place in zip(samples, here.tolist(), strict=True)]
    return found


def order(plan: Plan, epoch: int) -> Order:
    """Give the samples in the order of one epoch, each once."""
    return _order(plan.samples, plan.seed, epoch, plan.mixed_shards, plan.shard_lengths)


def epoch_of(plan: Plan, step: int) -> float:
    """Say how many times the samples were gone through before `step`."""
    return step * plan.global_batch / plan.samples


def augmentation_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Seed the random choices of one sample in one epoch: neither rank, thread, batch size nor order changes them.

    The key counts and not the sample's position, which moves when samples are added to the data set.
    """
    words = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8).digest(), "<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, *words]))


def shard_for_rank(samples: int, rank: int, world: int) -> range:
    """Give rank `rank` its part of an evaluation: no padding, so that sums over the ranks count each sample once."""
    assert 0 <= rank < world
    return range(rank, samples, world)


@functools.lru_cache(maxsize=4)
def _order(samples: int, seed: int, epoch: int, mixed_shards: int, shard_lengths: tuple[int, ...]) -> Order:
    """Shuffle one epoch (a million samples: 20 ms); the cache holds what the current batches draw from."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    if not mixed_shards:
        return rng.permutation(samples)
    ends = np.cumsum(shard_lengths)
    shards = rng.permutation(len(shard_lengths))
    parts = []
    for first in range(0, len(shards), mixed_shards):
        rows = [np.arange(ends[i] - shard_lengths[i], ends[i]) for i in shards[first : first + mixed_shards]]
        parts.append(rng.permutation(np.concatenate(rows)))
    return np.concatenate(parts)

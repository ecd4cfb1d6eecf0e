"""Which samples make up which batch: pure functions of (seed, step, global batch, rank, world).

The stream is the endless concatenation of one permutation per epoch; the global batch of step s is the stream from
s*B to (s+1)*B, and may straddle two epochs. So an epoch holds each sample exactly once, without padding and without
dropping, and a step alone says where a resumed run goes on, on any number of ranks that divides B.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.errors import UsageError


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


def make(samples: int, global_batch: int, seed: int, *, rank: int = 0, world: int = 1) -> Plan:
    """Make a plan.

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
    return Plan(samples, global_batch, seed, rank, world)


def positions(plan: Plan, step: int) -> list[Position]:
    """Say what rank `plan.rank` reads for `step`: every `world`-th place of the global batch from `rank` on."""
    start = step * plan.global_batch
    places = range(start + plan.rank, start + plan.global_batch, plan.world)
    return [_position(plan, place) for place in places]


def epoch_of(plan: Plan, step: int) -> float:
    """Say how many times the samples were gone through before `step`."""
    return step * plan.global_batch / plan.samples


def augmentation_rng(seed: int, position: Position) -> np.random.Generator:
    """Seed the random choices of one sample in one epoch: neither rank nor thread nor batch size changes them."""
    return np.random.default_rng(np.random.SeedSequence([seed, position.epoch, position.sample]))


def shard_for_rank(samples: int, rank: int, world: int) -> range:
    """Give rank `rank` its part of an evaluation: no padding, so that sums over the ranks count each sample once."""
    assert 0 <= rank < world
    return range(rank, samples, world)


def _position(plan: Plan, place: int) -> Position:
    epoch, offset = divmod(place, plan.samples)
    return Position(int(_permutation(plan.samples, plan.seed, epoch)[offset]), epoch, place)


@functools.lru_cache(maxsize=4)
def _permutation(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle one epoch (a million samples: 20 ms); the cache holds what the current batches draw from."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(samples)

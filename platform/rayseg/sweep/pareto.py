"""The Pareto front of several objectives: the points that no other one is better than everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Say whether `one` is nowhere worse and somewhere better; of every value the more the better."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[tuple[T, Sequence[float]]]) -> list[T]:
    """Give what stands beside the values that none dominates, the best in the first value first; ties all stay."""
    by_first = sorted(points, key=lambda point: [-v for v in point[1]])
    kept: list[tuple[T, Sequence[float]]] = []
    # What dominates a point stands before it in this order, and is itself kept or dominated by one that is.
    for point in by_first:
        if not any(dominates(other[1], point[1]) for other in kept):
            kept.append(point)
    return [name for name, _ in kept]

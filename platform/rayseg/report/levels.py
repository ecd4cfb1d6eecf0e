"""Searched values in levels: what mIoU came to at each, a grid of two of them, and which searches are confounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.report.values import Searched, Trial
from rayseg.sweep.trial import short

MOST_BINS = 5
"""Numbers between bounds are put into so many ranges of equally many trials."""
CONFOUNDED = 0.3
"""From this Cramér's V on, two searched values are called entangled."""


class Level(NamedTuple):
    """One value, or range of values, and the best mIoU of the trials that had it."""

    text: str
    miou: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return float(np.mean(self.miou))

    @property
    def spread(self) -> float | None:
        """The standard deviation; None of one trial."""
        return float(np.std(self.miou, ddof=1)) if len(self.miou) > 1 else None


class Grid(NamedTuple):
    """Best and mean mIoU (R,C) over two searched values, NaN where no trial ran, and how many did."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    best: NDArray[np.float64]
    mean: NDArray[np.float64]
    counts: NDArray[np.int64]


def distinct(values: Iterable[Any]) -> list[Any]:
    """Give the different values, numbers by size, then others by their text; True is not 1 here."""
    found = {(type(value).__name__ == "bool", repr(value)): value for value in values}
    return sorted(found.values(), key=_order)


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (not number, float(value) if number else 0.0, short(value))


def levels(searched: Searched, trials: Sequence[Trial]) -> tuple[list[str], list[int | None]]:
    """Name the levels of a searched value, and give each trial's; None where it was not searched there."""
    if searched.scale is None or len(searched.values) <= MOST_BINS:
        order = {repr(value): i for i, value in enumerate(searched.values)}
        texts = [short(value) for value in searched.values]
        return texts, [order[repr(t.point[searched.name])] if searched.name in t.point else None for t in trials]
    numbers = np.sort([float(t.point[searched.name]) for t in trials if searched.name in t.point])
    if not numbers.size:
        return [], [None] * len(trials)
    cuts = np.unique(np.quantile(numbers, np.linspace(0, 1, MOST_BINS + 1), method="nearest"))
    last = max(len(cuts) - 2, 0)

    def place(value: float) -> int:
        return min(int(np.searchsorted(cuts, value, side="right")) - 1, last)

    texts = [f"{short(float(a))} … {short(float(b))}" for a, b in itertools.pairwise(cuts)]
    texts = texts or [short(float(cuts[0]))]
    return texts, [place(float(t.point[searched.name])) if searched.name in t.point else None for t in trials]


def marginal(searched: Searched, trials: Sequence[Trial]) -> list[Level]:
    """Give mIoU at each level that a trial had, over all other values."""
    counted = [trial for trial in trials if trial.counts]
    texts, places = levels(searched, counted)
    return [
        Level(text, tuple(t.miou or 0.0 for t, at in zip(counted, places, strict=True) if at == i))
        for i, text in enumerate(texts)
        if i in places
    ]


def grid(pair: tuple[Searched, Searched], trials: Sequence[Trial]) -> Grid:
    """Lay mIoU out over two searched values."""
    counted = [t for t in trials if t.counts and all(each.name in t.point for each in pair)]
    (rows, down), (columns, across) = (levels(each, counted) for each in pair)
    best = np.full((len(rows), len(columns)), np.nan)
    total, counts = np.zeros(best.shape), np.zeros(best.shape, np.int64)
    for trial, i, j in zip(counted, down, across, strict=True):
        assert i is not None
        assert j is not None
        assert trial.miou is not None
        best[i, j] = np.nanmax([best[i, j], trial.miou])
        total[i, j] += trial.miou
        counts[i, j] += 1
    mean = np.divide(total, counts, out=np.full(best.shape, np.nan), where=counts > 0)
    return Grid(tuple(rows), tuple(columns), best, mean, counts)


def confounded(searched: Sequence[Searched], trials: Sequence[Trial]) -> list[tuple[str, str, float]]:
    """Name the pairs of searched values that went together, and how closely, the closest first."""
    counted = [trial for trial in trials if trial.counts]
    places = {each.label: levels(each, counted)[1] for each in searched}
    names, found = list(places), []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            v = entangled(places[one], places[other])
            if v >= CONFOUNDED:
                found.append((one, other, v))
    return sorted(found, key=lambda each: -each[2])


def entangled(one: Sequence[int | None], other: Sequence[int | None]) -> float:
    """Give Cramér's V of two lists of levels over the trials that have both: 0 where they are chance, 1 where one
    tells the other. Corrected for few trials (Bergsma 2013); with a trial or less a level they cannot be told apart.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return 0.0
    table = np.zeros((max(a for a, _ in pairs) + 1, max(b for _, b in pairs) + 1))
    for a, b in pairs:
        table[a, b] += 1
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    (rows, columns), n = table.shape, float(table.sum())
    if min(rows, columns) < 2:
        return 0.0
    expected = np.outer(table.sum(1), table.sum(0)) / n
    chance = (rows - 1) * (columns - 1) / (n - 1)
    apart = max(float(((table - expected) ** 2 / expected).sum()) / n - chance, 0.0)
    room = min(size - (size - 1) ** 2 / (n - 1) for size in (rows, columns)) - 1
    return min(math.sqrt(apart / room), 1.0) if room > 1e-9 else 1.0

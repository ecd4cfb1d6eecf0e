"""Our figures of a table's rows: which finished runs count, and their mean and spread over the seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rayseg.sweep import memory
from rayseg.tables.asked import Asked, Line
from rayseg.tracking.history import Earlier


class Ours(NamedTuple):
    """What a row came to: the mIoU at the last step, in percent, by seed, and the runs that it is known from."""

    miou: dict[int, float]
    runs: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        """Give the mean over the seeds; None where no run is there."""
        return float(np.mean(list(self.miou.values()))) if self.miou else None

    @property
    def spread(self) -> float | None:
        """Give the sample standard deviation over the seeds; None of fewer than two."""
        return float(np.std(list(self.miou.values()), ddof=1)) if len(self.miou) > 1 else None


class Found(NamedTuple):
    """Our figures, one for each of the table's rows, and the keys of the runs that are there."""

    rows: tuple[Ours, ...]
    keys: frozenset[str]


def figures(asked: Asked, runs: Iterable[Earlier], data: str) -> Found:
    """Choose the runs of this table: the same resolved config, to its last step, on the same samples (`data`).

    A run of other steps has another config, one of other samples another digest: neither counts.
    """
    made = asked.trials()
    known = {r.known.trial.key: r for r in memory.remember(runs, made, asked.base, data)} if made else {}
    return Found(tuple(_ours(line, known) for line in asked.lines), frozenset(known))


def _ours(line: Line, known: dict[str, memory.Remembered]) -> Ours:
    there = [(trial, known[trial.key]) for trial in line.trials if trial.key in known]
    miou = {t.config.seed: 100 * r.known.curve[t.config.train.steps] for t, r in there}
    return Ours(miou, tuple(r.run for _, r in there))

"""What stands on a sweep's table while it runs: every trial, how far it is and what it came to; plain state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rayseg.sweep.trial import Trial
from rayseg.train.progress import duration

State = Literal["runs", "paused", "finished", "stopped", "failed", "known"]


class Event(NamedTuple):
    """Something that happened to a trial: `start`, `result`, `paused`, `finished`, `stopped`, `failed` or `known`.

    One that goes on from another's weights starts at a `step`; a paused one goes on when the sweep does; a known one
    was run by an earlier sweep, and is not run again.
    """

    kind: str
    trial: Trial
    figures: Mapping[str, Any]


class Left(NamedTuple):
    """What is left: seconds and steps to be expected, and at most."""

    seconds: float
    most_s: float
    steps: float

    def __str__(self) -> str:
        said = duration(self.seconds)
        return said if self.sure else f"{said} expected, {duration(self.most_s)} at most"

    @property
    def sure(self) -> bool:
        """Whether what is expected is as good as the most."""
        return self.most_s <= 1.05 * self.seconds + 1


@dataclass
class Entry:
    """One trial on the board; `best` is its best mIoU, -1 before it was evaluated."""

    trial: Trial
    state: State = "runs"
    step: int = 0
    miou: float = -1.0
    best: float = -1.0
    reason: str = ""


class Board:
    """Takes in events. `total` grows where a search starts more trials than it was said to.

    `left` says how many steps each trial that is known already has still to do; those that are over are not in it.
    `best` is the best mIoU of earlier attempts and its trial's key.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        left: Mapping[str, int],
        best: tuple[float, str] | None,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.over = total or len(trials), len(trials) - len(left)
        self.left, self.best, self.clock = dict(left), best, clock
        self.entries: dict[str, Entry] = {}
        self.done_here = 0
        self.began = clock()

    def take(self, event: Event) -> Entry:
        """Take in one event; give the trial's entry."""
        trial, figures = event.trial, event.figures
        entry = self.entries.setdefault(trial.key, Entry(trial))
        if event.kind == "start":
            entry.state = "runs"
            self.left.setdefault(trial.key, trial.config.train.steps - int(figures.get("step", 0)))
            self.total = max(self.total, self.over + sum(e.state == "runs" for e in self.entries.values()))
        elif event.kind == "result":
            self._result(entry, figures)
        elif event.kind == "paused":
            entry.state = "paused"
        else:
            self.over += 1
            self.left[trial.key] = 0
            entry.state, entry.reason = event.kind, figures.get("reason") or ""  # type: ignore[assignment]
            if event.kind == "known":
                self._score(entry, figures["miou"], figures["miou"])
        return entry

    def _result(self, entry: Entry, figures: Mapping[str, Any]) -> None:
        key, step = entry.trial.key, int(figures["step"])
        left = entry.trial.config.train.steps - step
        self.done_here += self.left.get(key, entry.trial.config.train.steps) - left
        self.left[key] = left
        entry.state, entry.step = "runs", step
        self._score(entry, figures["miou"], figures.get("best_miou", figures["miou"]))

    def _score(self, entry: Entry, miou: float, best: float) -> None:
        entry.miou, entry.best = miou, max(best, entry.best)
        if self.best is None or entry.best > self.best[0]:
            self.best = (entry.best, entry.trial.key)

    def pace_left(self) -> Left | None:
        """Take every known trial to its last step at the pace of this attempt; None before the first result."""
        pace = self.done_here / max(self.clock() - self.began, 1e-9)
        steps = sum(self.left.values())
        return Left(steps / pace, steps / pace, steps) if pace > 0 else None

    def progress(self) -> str:
        """Say how many trials are over."""
        return f"{self.over:{len(str(self.total))}}/{self.total} done"

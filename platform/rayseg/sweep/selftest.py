"""Runs every search on trials that only pretend to train, and counts what must not be nothing.

A population that never perturbs, or brackets that never stop a trial, look like a sweep that works. So this plays each
search with one to several workers of random speed, on curves of which the best point is known, and fails where no
trial was stopped, promoted, exploited, or went on from another's weights.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rayseg.errors import TrainingError
from rayseg.sweep.journal import Outcome
from rayseg.sweep.ladder import Ladder
from rayseg.sweep.origin import Base
from rayseg.sweep.pbt import Pbt
from rayseg.sweep.recheck import Rechecked
from rayseg.sweep.search import Figures, Search, Suggestion
from rayseg.sweep.space import Choice, Dimension
from rayseg.sweep.trial import Trial, describe

Peak = Callable[[Trial], float]
"""The mIoU that a trial's values would come to with endless training."""
PACE = (20.0, 60.0)
"""So many steps bring a curve to within 1/e of its peak: between these, by the point, so that curves cross."""


class Event(NamedTuple):
    """What the search was asked or told: `suggest` (with the donor's key), `report`, `ended`."""

    kind: str
    key: str
    detail: object = None


class Played(NamedTuple):
    """What a played sweep came to; `steps` counts those of all trials, each once."""

    events: list[Event]
    trials: dict[str, Trial]
    best: float
    steps: int
    outcomes: dict[str, Outcome]

    @property
    def clones(self) -> int:
        """Count the trials that went on from a commit."""
        return sum(event.kind == "suggest" and event.detail is not None for event in self.events)


class _Run:
    """A trial under way: its step, how good its weights are, and whether it was given up."""

    def __init__(self, trial: Trial, step: int, skill: float) -> None:
        self.trial, self.step, self.skill, self.begun = trial, step, skill, step
        self.stopped = False

    def advance(self, peak: float) -> None:
        """Train to the next evaluation."""
        train = self.trial.config.train
        following = min((self.step // train.eval_every + 1) * train.eval_every, train.steps)
        share = zlib.crc32(describe(self.trial.point).encode()) / 2**32
        pace = PACE[0] + (PACE[1] - PACE[0]) * share
        self.skill += (peak - self.skill) * (1 - math.exp((self.step - following) / pace))
        self.step = following


def play(
    search: Search, peak: Peak, *, slots: int, seed: int = 0, failing: float = 0.0, after: Sequence[Event] = ()
) -> Played:
    """Play a search to its end with `slots` workers of random speed; each trial fails with the chance `failing`.

    With `after`, the events up to a kill, the search is told those first, and what was under way goes on.

    Raises:
        TrainingError: the search waits for nothing, decides otherwise than before, or names a donor that was not there.
    """
    floor = _Floor(search, np.random.default_rng(seed))
    for event in after:
        floor.again(event)
    floor.settle()
    done = False
    while True:
        while not done and len(floor.running) < slots:
            answer = search.suggest()
            done = answer == "done"
            if not isinstance(answer, Suggestion):
                break
            floor.start(answer)
        if not floor.running:
            if not done:
                raise TrainingError("the search waits, and nothing runs", type(search).__name__, "mend the search")
            return floor.played()
        floor.move(peak, failing)


class _Floor:
    """The trials under way, the commits of all, and what happened."""

    def __init__(self, search: Search, rng: np.random.Generator) -> None:
        self.search, self.rng = search, rng
        self.running: dict[str, _Run] = {}
        self.commits: dict[tuple[str, int], float] = {}
        self.events: list[Event] = []
        self.trials: dict[str, Trial] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.best, self.steps = 0.0, 0

    def start(self, answer: Suggestion) -> None:
        """Start a trial, from its donor's commit if it has one."""
        trial, donor = answer.trial, answer.donor
        if trial.key in self.trials:
            raise TrainingError(f"trial {trial.key} is named twice", "search", "mend the search")
        if donor is not None and donor not in self.commits:
            raise TrainingError(f"no commit of {donor.key} at step {donor.step}", "search", "mend the search")
        self.trials[trial.key] = trial
        self.events.append(Event("suggest", trial.key, donor))
        step, skill = (donor.step, self.commits[donor]) if donor is not None else (0, 0.0)
        self.running[trial.key] = _Run(trial, step, skill)

    def move(self, peak: Peak, failing: float) -> None:
        """Let one of the trials under way come to its next evaluation, or fail."""
        key = list(self.running)[int(self.rng.integers(len(self.running)))]
        run = self.running[key]
        if self.rng.random() < failing:
            self.end(key, "failed")
            return
        run.advance(peak(run.trial))
        self.tell(run, {"step": run.step, "miou": run.skill})
        self.settle()

    def settle(self) -> None:
        """End what was stopped, and what did all its steps."""
        for key, run in list(self.running.items()):
            if run.stopped or run.step == run.trial.config.train.steps:
                self.end(key, "stopped" if run.stopped else "finished")

    def tell(self, run: _Run, figures: Figures) -> None:
        """Report an evaluation."""
        key = run.trial.key
        self.steps += int(figures["step"]) - max((s for k, s in self.commits if k == key), default=run.begun)
        run.step, run.skill = int(figures["step"]), figures["miou"]
        self.commits[key, run.step] = run.skill
        self.best = max(self.best, run.skill)
        self.events.append(Event("report", key, figures))
        run.stopped = self.search.report(key, figures) is not None

    def end(self, key: str, outcome: Outcome) -> None:
        """Take a trial off the floor."""
        del self.running[key]
        self.outcomes[key] = outcome
        self.events.append(Event("ended", key, outcome))
        self.search.ended(key, outcome)

    def again(self, event: Event) -> None:
        """Let happen what happened before a kill."""
        if event.kind == "report":
            self.tell(self.running[event.key], event.detail)  # type: ignore[arg-type]
        elif event.kind == "ended":
            self.end(event.key, event.detail)  # type: ignore[arg-type]
        else:
            answer = self.search.suggest()
            if not isinstance(answer, Suggestion) or answer.trial.key != event.key or answer.donor != event.detail:
                raise TrainingError(f"{answer} where {event.key} was named before", "search", "mend the search")
            self.start(answer)

    def played(self) -> Played:
        """Sum it up."""
        return Played(self.events, self.trials, self.best, self.steps, self.outcomes)


def check(make: Callable[[], Search], peak: Peak) -> list[str]:
    """Play a search with 1 to 8 workers and count what it did; a line each.

    Raises:
        TrainingError: it did nothing of what it is for.
    """
    lines = []
    for slots in (1, 2, 4, 8):
        search = make()
        played = play(search, peak, slots=slots, seed=slots)
        counts = tally(search, played)
        lines.append(f"{slots} at a time: {', '.join(f'{n} {what}' for what, n in counts.items())}")
        if idle := [what for what, n in counts.items() if n == 0]:
            raise TrainingError(f"no trial was {idle[0]}, {slots} at a time", type(search).__name__, "mend the search")
    return lines


def tally(search: Search, played: Played) -> dict[str, int]:
    """Count what this search is for."""
    counts = {"started": len(played.trials)}
    if isinstance(search, Pbt):
        return counts | {"exploited": sum(a.exploited for a in search.lineage), "resumed from a commit": played.clones}
    if isinstance(search, Ladder):
        return counts | {"promoted": search.promotions}
    if isinstance(search, Rechecked):
        return counts | {"stopped": sum(outcome == "stopped" for outcome in played.outcomes.values())}
    return counts


def surface(base: Base) -> Peak:
    """Give every point of a space a peak between 0.2 and 0.9, highest at one place of its own."""
    rng = np.random.default_rng([base.seed, 1])  # not the draws of the search itself
    best = {name: rng.random() for name in base.space}

    def peak(trial: Trial) -> float:
        far = [_share(base.space[name], value) - best[name] for name, value in trial.point.items() if name in best]
        return 0.2 + 0.7 * math.exp(-3 * sum(d * d for d in far))

    return peak


def _share(dimension: Dimension, value: Any) -> float:
    """Say where a value lies between the ends of its dimension, from 0 to 1."""
    if isinstance(dimension, Choice):
        return dimension.values.index(value) / max(1, len(dimension.values) - 1)
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)

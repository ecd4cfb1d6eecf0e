"""What each trial of a sweep takes, from a few that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rayseg.config import RunConfig
from rayseg.sweep.space import Point
from rayseg.sweep.trial import Trial
from rayseg.train.pace import Pace, images_of


class Load(NamedTuple):
    """Multiply-adds of one update of the whole batch, and of one evaluated image."""

    step: float
    image: float


class Measured(NamedTuple):
    """A trial whose pace is known."""

    trial: Trial
    pace: Pace


class Costs:
    """Says what any trial takes, from those measured.

    One that was not measured takes what the measured one takes that differs from it least in what is searched (the
    mean, where several do), times the ratio of their multiply-adds. `val_images` is the size of the whole split.
    """

    def __init__(
        self, measured: Sequence[Measured], load: Callable[[RunConfig], Load], *, val_images: int, boot_s: float = 0.0
    ) -> None:
        assert measured, "nothing was measured"
        self.measured, self.load, self.val_images, self.boot_s = list(measured), load, val_images, boot_s
        self._known: dict[str, Pace] = {}

    def pace(self, trial: Trial) -> Pace:
        """Give a trial's pace."""
        if trial.key not in self._known:
            apart = [distance(m.trial.point, trial.point) for m in self.measured]
            near = [m for m, far in zip(self.measured, apart, strict=True) if far == min(apart)]
            scaled = [self._scaled(m, trial) for m in near]
            self._known[trial.key] = Pace(*(statistics.fmean(values) for values in zip(*scaled, strict=True)))
        return self._known[trial.key]

    def _scaled(self, known: Measured, trial: Trial) -> Pace:
        if known.trial.config == trial.config:
            return known.pace
        here, there = self.load(trial.config), self.load(known.trial.config)
        pace = known.pace
        return pace._replace(
            step_s=pace.step_s * here.step / there.step, image_s=pace.image_s * here.image / there.image
        )

    def judging_s(self, trial: Trial) -> float:
        """Give the time of one evaluation and its commit."""
        pace = self.pace(trial)
        return images_of(trial.config, self.val_images) * pace.image_s + pace.commit_s

    def seconds(self, trial: Trial, *, done: int = 0) -> float:
        """Give the time of a whole trial, or of what follows its first `done` steps."""
        pace, steps = self.pace(trial), trial.config.train.steps
        judged = len(reports(trial, done))
        return pace.start_s + (steps - done) * pace.step_s + judged * self.judging_s(trial) + pace.end_s


def distance(one: Point, other: Point) -> float:
    """Say how far two points are apart: the sum over the searched names, 0 where equal and at most 1 for each."""
    return sum(_apart(one.get(name), other.get(name)) for name in one.keys() | other.keys())


def _apart(a: object, b: object) -> float:
    if a == b:
        return 0.0
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return abs(a - b) / (abs(a) + abs(b)) if numbers else 1.0  # type: ignore[operator, arg-type]


def spread(trials: Sequence[Trial], size: Callable[[Trial], float], count: int) -> list[Trial]:
    """Choose up to `count` trials to measure: the first, the largest, then each time the one farthest from all."""
    chosen: list[Trial] = []
    left = list(trials)
    while left and len(chosen) < count:
        if not chosen:
            following = left[0]
        elif len(chosen) == 1:
            following = max(left, key=size)
        else:
            following = max(left, key=lambda t: min(distance(t.point, c.point) for c in chosen))
        chosen.append(following)
        left = [t for t in left if t.config != following.config]
    return chosen


def reports(trial: Trial, after: int = 0) -> list[int]:
    """List the steps after which a trial evaluates, of those beyond `after`."""
    train = trial.config.train
    return sorted({*range(train.eval_every, train.steps, train.eval_every), train.steps} - set(range(after + 1)))

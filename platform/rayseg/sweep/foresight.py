"""What is left of a sweep that runs: its rest played through again and again, at the pace seen so far.

Under halving the time left is an expected one: the rest is played by the search's own rule, with scores drawn from
those of the trials so far. What it takes if no further trial is stopped is the most it can take.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rayseg.config import RunConfig
from rayseg.sweep.board import Event, Left
from rayseg.sweep.costs import Costs, Load, Measured
from rayseg.sweep.play import PLAYS, Luck, Play, Running, Waiting, forecast, play, understudy
from rayseg.sweep.search import Search
from rayseg.sweep.trial import Trial
from rayseg.train.pace import Pace
from rayseg.train.progress import duration

EVERY_S, BUDGET_S = 5.0, 0.15
"""The rest is played again after each end of a trial, else every so many seconds (more often near the end of the
sweep); for at most so long."""


class Predicted(NamedTuple):
    """What a sweep was said to take, and by what."""

    wall_s: float
    steps: float
    source: str


class _Course:
    """How one trial of this attempt went: where it was when it was last heard of, and its pace."""

    def __init__(self, trial: Trial, step: int, at: float) -> None:
        self.trial, self.step, self.at = trial, step, at
        self.first_s, self.first_steps, self.later_s, self.later_steps = 0.0, 0, 0.0, 0
        self.over = self.ends = False

    def reported(self, step: int, at: float) -> int:
        """Take in a report; give how far it came since the last one."""
        took, steps = at - self.at, step - self.step
        if steps > 0 and not self.first_steps:
            self.first_s, self.first_steps = took, steps
        elif steps > 0:
            self.later_s, self.later_steps = self.later_s + took, self.later_steps + steps
        self.step, self.at = step, at
        return steps

    def pace(self, end_s: float) -> Pace | None:
        """Give its pace; evaluations are part of its steps."""
        if not self.first_steps:
            return None
        several = self.later_steps > 0
        step_s = self.later_s / self.later_steps if several else self.first_s / self.first_steps
        start_s = max(self.first_s - self.first_steps * step_s, 0.0)
        return Pace(start_s, step_s, 0.0, 0.0, end_s, 0.0)


class Foresight:
    """Hears of every event and says what is left; `search` is the one that runs, and is only copied.

    `planned` are costs and prediction of an earlier `--plan`. `waiting` are trials that an earlier attempt left open,
    `began` is when the command started by `clock`.
    """

    def __init__(
        self,
        search: Search,
        load: Callable[[RunConfig], Load],
        *,
        slots: int,
        planned: tuple[Costs, Predicted] | None = None,
        waiting: Sequence[Waiting] = (),
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self.search, self.load, self.slots, self.clock = search, load, slots, clock
        self.planned = planned[0] if planned else None
        self.predicted = planned[1] if planned else None
        self.waiting = {each.trial.key: each for each in waiting}
        self.began = clock() if began is None else began
        self.steps = 0
        self.courses: dict[str, _Course] = {}
        self.seen: dict[int, dict[str, float]] = {}
        self.latest: dict[str, float] = {}
        self.ends: list[float] = []
        self._known: tuple[float, Left] | None = None
        self._stale = True

    def take(self, event: Event) -> None:
        """Take in one event."""
        now, key = self.clock(), event.trial.key
        if event.kind == "start":
            self._begin(event.trial, now, event.figures.get("step", 0))
        elif event.kind == "result":
            course = self.courses.get(key) or self._begin(event.trial, now)
            step = int(event.figures["step"])
            self.steps += max(course.reported(step, now), 0)
            self.seen.setdefault(step, {})[key] = event.figures["miou"]
            self.latest[key] = event.figures["miou"]
            course.ends = event.figures.get("ends", False)
        elif event.kind in ("finished", "stopped", "failed") and key in self.courses:
            self.courses[key].over = self._stale = True
            self.ends.append(now - self.courses[key].at)
        predicts = self.predicted is None and self._enough()
        self._stale = self._stale or predicts
        self._look(now)
        if predicts and (left := self.left()) is not None and left.steps:
            source = f"from the first trials' pace, {duration(now - self.began)} after the start"
            self.predicted = Predicted(now - self.began + left.seconds, self.steps + left.steps, source)

    def _begin(self, trial: Trial, now: float, at: int = 0) -> _Course:
        """Begin a trial at step `at`, its donor's; one whose process died goes on from what it last reported."""
        before = self.courses.get(trial.key)
        waited = self.waiting.pop(trial.key, Waiting(trial, at))
        self.courses[trial.key] = _Course(trial, before.step if before else waited.done, now)
        return self.courses[trial.key]

    def trials(self) -> int:
        """Say how many trials there will be, of those that have not begun: one play tells, at any pace."""
        any_trial = Trial(0, "", {}, None)  # type: ignore[arg-type]
        flat = Costs([Measured(any_trial, Pace(0, 1, 0, 0, 0, 0))], lambda config: Load(1, 1), val_images=0)
        return self._play(flat, 0).trials

    def _enough(self) -> bool:
        """Say whether as many trials as run at once have shown their pace."""
        shown = sum(course.over or course.later_steps > 0 for course in self.courses.values())
        return shown >= self.slots

    def left(self) -> Left | None:
        """Say what is left; None before anything is known of the pace. It may be asked from another thread."""
        if self._known is None:
            return None
        since, left = self.clock() - self._known[0], self._known[1]
        return left._replace(seconds=max(left.seconds - since, 0.0), most_s=max(left.most_s - since, 0.0))

    def left_of(self, key: str) -> float | None:
        """Say how many seconds a trial has left if it is not stopped; None before its first report."""
        course = self.courses.get(key)
        pace = course.pace(0.0) if course is not None else None
        if course is None or pace is None:
            return None
        left_s = (course.trial.config.train.steps - course.step) * pace.step_s
        return max(left_s - (self.clock() - course.at), 0.0)

    def _look(self, now: float) -> None:
        """Play the rest again, where what is known of it is old."""
        if self._known is not None and not self._stale:
            at, left = self._known
            if now - at <= min(EVERY_S, left.seconds / 4):
                return
        if (found := self._played()) is not None:
            self._known, self._stale = (now, found), False

    def _played(self) -> Left | None:
        costs = self._costs()
        if costs is None:
            return None
        plays: list[Play] = []
        until = time.perf_counter() + BUDGET_S
        for seed in itertools.count():
            plays.append(self._play(costs, seed))
            certain = seed == 1 and not any(p.stopped for p in plays)
            if certain or len(plays) == PLAYS or time.perf_counter() > until:
                break
        found, most = forecast(plays), self._play(costs, 0, heeded=False)
        return Left(found.wall_s, max(most.wall_s, found.wall_s), found.steps)

    def _play(self, costs: Costs, seed: int, *, heeded: bool = True) -> Play:
        now, luck = self.clock(), Luck(seed, self.seen)
        running = []
        for key, course in self.courses.items():
            if not course.over:
                since = now - course.at - (0.0 if course.first_steps else costs.pace(course.trial).start_s)
                running.append(Running(course.trial, course.step, since, course.ends))
                if key in self.latest:
                    luck.rank(key, course.step, self.latest[key])
        return play(
            understudy(self.search),
            costs,
            luck,
            slots=max(self.slots, len(running)),
            running=running,
            waiting=list(self.waiting.values()),
            heeded=heeded,
        )

    def _costs(self) -> Costs | None:
        """Give the costs of trials by what was seen, else by what was planned.

        A trial's first report tells its start and its steps in one: where others have told them apart, these count.
        """
        end_s = statistics.median(self.ends) if self.ends else 0.0
        clear = [course for course in self.courses.values() if course.later_steps]
        seen = [(course.trial, course.pace(end_s)) for course in clear or self.courses.values()]
        measured = [Measured(trial, pace) for trial, pace in seen if pace is not None]
        return Costs(measured, self.load, val_images=0) if measured else self.planned

    def verdict(self) -> str:
        """Say, at the end, what was predicted and what came."""
        wall_s = self.clock() - self.began
        if self.predicted is None:
            return f"took {duration(wall_s)} and {self.steps} steps; too short to be predicted"
        said = self.predicted
        pairs = ((wall_s, said.wall_s), (self.steps, said.steps))
        apart, steps_apart = (f"{100 * (came / max(was, 1e-9) - 1):+.0f} %" for came, was in pairs)
        return (
            f"predicted {duration(said.wall_s)} and {said.steps:.0f} steps ({said.source}); "
            f"took {duration(wall_s)} ({apart}) and {self.steps} steps ({steps_apart})"
        )

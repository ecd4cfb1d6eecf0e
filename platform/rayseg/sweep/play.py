"""A sweep played through without training: when each trial would start, report and stop, and how long all takes.

The search itself is played, with scores drawn by chance. So the expected steps under halving are those of the rule as
it is, with its waits and its order, whatever the algorithm. Nothing here runs a model.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rayseg.sweep.costs import Costs, reports
from rayseg.sweep.search import Search, Suggestion
from rayseg.sweep.sequential import Seen, Sequential, miou_alone
from rayseg.sweep.space import Point, Space, one
from rayseg.sweep.trial import Trial


class Running(NamedTuple):
    """A trial under way: the last step it reported, and how long ago that was (below 0: it has still to start).

    One that `ends` was told to stop there, and the search knows.
    """

    trial: Trial
    step: int
    since_s: float
    ends: bool = False


class Waiting(NamedTuple):
    """A trial that is to start, or to go on after so many steps."""

    trial: Trial
    done: int


class Play(NamedTuple):
    """How one sweep went, or would: `busy_s` counts trials that ran at once each, `stopped` how many at which step."""

    wall_s: float
    busy_s: float
    steps: int
    trials: int
    stopped: Mapping[int, int]


class Luck:
    """Scores by chance: each trial has a rank of its own among all, and each evaluation some noise on it.

    With `seen`, the scores of trials at each step so far, a rank is made a score of that step as theirs are: those
    that came that far are the better ones, and a cut that stands is met as often as the rule means it to be.
    """

    def __init__(self, seed: int, seen: Mapping[int, Mapping[str, float]] | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.ranks: dict[str, float] = {}
        self.scales: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if seen:
            first = seen[min(seen)]
            known = {key: (i + 0.5) / len(first) for i, key in enumerate(sorted(first, key=lambda key: first[key]))}
            for step, scores in seen.items():
                ranks = sorted(known[key] for key in scores if key in known)
                if ranks:
                    self.scales[step] = np.array(ranks), np.sort([scores[key] for key in scores if key in known])

    def rank(self, key: str, step: int, miou: float) -> None:
        """Take in how a trial under way did at its last step."""
        if step in self.scales:
            ranks, scores = self.scales[step]
            self.ranks[key] = float(np.clip(_along(miou, scores, ranks), 0, 1))

    def miou(self, key: str, step: int) -> float:
        """Draw a trial's score at a step."""
        rank = self.ranks.setdefault(key, self.rng.uniform()) + self.rng.normal(0, NOISE)
        return _along(rank, *self.scales[step]) if step in self.scales else rank


NOISE = 0.1


def _along(at: float, x: np.ndarray, y: np.ndarray) -> float:
    """Read a rising curve at a place; beyond its ends it rises on as it does on the whole."""
    slope = (y[-1] - y[0]) / (x[-1] - x[0]) if x[-1] > x[0] and y[-1] > y[0] else 1.0
    beyond = min(at - x[0], 0.0) + max(at - x[-1], 0.0)
    return float(np.interp(at, x, y) + slope * beyond)


def understudy(search: Search) -> Search:
    """Copy a search to be played; a model that would choose its points is replaced by draws, which take no time.

    How many trials there are, and how many of them are stopped where, does not hang on how points are chosen.
    """
    played = copy.deepcopy(search)
    inner: object = played
    while inner is not None:
        if isinstance(inner, Sequential):
            inner.model, inner.objectives = _Draws(inner.maker.base.space), miou_alone
            inner.maker.num_classes = None
        inner = getattr(inner, "search", None)
    return played


class _Draws:
    """Chooses points by chance."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def propose(self, seen: Sequence[Seen], seeds: Sequence[int]) -> Point:
        return one(self.space, np.random.default_rng(seeds))


def play(
    search: Search,
    costs: Costs,
    luck: Luck,
    *,
    slots: int,
    running: Sequence[Running] = (),
    waiting: Sequence[Waiting] = (),
    heeded: bool = True,
) -> Play:
    """Play a search from where it stands to its end, `slots` trials at a time; it is used up by that.

    `waiting` are trials that it has suggested already, and that are to start before any other. Not `heeded`, it stops
    no trial: what comes out is the most that it can take.
    """
    table = _Table(search, costs, luck, heeded)
    for each in running:
        table.join(each)
    table.waiting = list(waiting)
    for _ in range(slots - len(running)):
        table.free.append(table.now if running else costs.boot_s)
    return table.play()


class _Table:
    """The clock of one play: when each trial that runs reports next, and since when each slot is free."""

    def __init__(self, search: Search, costs: Costs, luck: Luck, heeded: bool) -> None:
        self.search, self.costs, self.luck, self.heeded = search, costs, luck, heeded
        self.due: list[tuple[float, int, Trial, int, int]] = []  # when, a tie-breaker, trial, step before, step then
        self.free: list[float] = []
        self.waiting: list[Waiting] = []
        self.ties = itertools.count()
        self.now = self.busy = 0.0
        self.steps = self.trials = 0
        self.stopped: Counter[int] = Counter()

    def join(self, running: Running) -> None:
        """Take in a trial that runs already; after its last step it has only its tables to draw."""
        trial, step, since_s, ends = running
        if step < trial.config.train.steps and not ends:
            self._await(trial, step, from_=-since_s)
        else:
            self.search.ended(trial.key, "stopped" if ends else "finished")
            self.free.append(max(self.costs.pace(trial).end_s - since_s, 0.0))

    def play(self) -> Play:
        done = False
        while True:
            while self.free and (self.waiting or not done):
                following = self.waiting.pop(0) if self.waiting else self.search.suggest()
                done = following == "done"
                if isinstance(following, Suggestion):
                    following = Waiting(following.trial, following.donor.step if following.donor else 0)
                if not isinstance(following, Waiting):
                    break
                self._start(following)
            if not self.due:
                self.now = max([self.now, *self.free])
                return Play(self.now, self.busy, self.steps, self.trials, dict(self.stopped))
            self._report()

    def _start(self, following: Waiting) -> None:
        at = max(self.now, self.free.pop(self.free.index(min(self.free))))
        start_s = self.costs.pace(following.trial).start_s
        self.trials += 1
        self.busy += start_s
        self._await(following.trial, following.done, from_=at + start_s)

    def _await(self, trial: Trial, step: int, *, from_: float) -> None:
        then = next(iter(reports(trial, step)), step)
        took = (then - step) * self.costs.pace(trial).step_s + self.costs.judging_s(trial)
        heapq.heappush(self.due, (max(from_ + took, self.now), next(self.ties), trial, step, then))
        self.busy += took

    def _report(self) -> None:
        self.now, _, trial, before, step = heapq.heappop(self.due)
        self.steps += step - before
        miou = self.luck.miou(trial.key, step)
        figures = {"step": step, "miou": miou, "best_miou": miou, "loss": 1.0, "latency_ms": 1.0}
        reason = self.search.report(trial.key, figures)
        reason = reason if self.heeded else None
        if reason is None and step < trial.config.train.steps:
            self._await(trial, step, from_=self.now)
            return
        if reason is not None:
            self.stopped[step] += 1
        self.search.ended(trial.key, "stopped" if reason is not None else "finished")
        end_s = self.costs.pace(trial).end_s
        self.busy += end_s
        self.free.append(self.now + end_s)


class Forecast(NamedTuple):
    """What many plays come to: the mean, and between which bounds eight in ten of them lie."""

    wall_s: float
    wall_range_s: tuple[float, float]
    steps: float
    steps_range: tuple[float, float]
    busy_s: float
    trials: float
    stopped: Mapping[int, float]

    @property
    def exact(self) -> bool:
        """Whether chance has no part in it: every play does the same steps."""
        return self.steps_range[0] == self.steps_range[1]


def forecast(plays: Iterable[Play]) -> Forecast:
    """Sum plays up."""
    found = list(plays)
    walls, steps = ([getattr(p, name) for p in found] for name in ("wall_s", "steps"))
    stops = {step for p in found for step in p.stopped if p.stopped[step]}
    return Forecast(
        wall_s=statistics.fmean(walls),
        wall_range_s=_eight_in_ten(walls),
        steps=statistics.fmean(steps),
        steps_range=_eight_in_ten(steps),
        busy_s=statistics.fmean(p.busy_s for p in found),
        trials=statistics.fmean(p.trials for p in found),
        stopped={step: statistics.fmean(p.stopped.get(step, 0) for p in found) for step in sorted(stops)},
    )


def _eight_in_ten(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.1, 0.9))
    return float(low), float(high)


PLAYS = 20


def foresee(search: Search, costs: Costs, *, slots: int, plays: int = PLAYS) -> Forecast:
    """Play a search that has not begun up to `plays` times, each time anew; it is left as it is."""
    found: list[Play] = []
    for seed in range(plays):
        found.append(play(understudy(search), costs, Luck(seed), slots=slots))
        if seed == 1 and not any(p.stopped for p in found):
            break  # nothing is left to chance
    return forecast(found)

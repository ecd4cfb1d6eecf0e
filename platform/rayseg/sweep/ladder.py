"""A ladder of fidelities: points that do well on a cheap rung climb to a dearer one, up to the full run.

A rung is a set of settings: fewer steps, smaller crops, a coarser output stride, a share of the data. Points climb as
in asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
Algorithm 2): whoever asks for work gets the highest promotion that is due, else a new point on the first rung. A point
goes on with its weights and momentum as a new trial of the next rung's config, or from scratch with `fresh`. Deviation:
the paper's stream of points never ends. Here it does, and then a rung that too few reached for a promotion sends its
best one on, so that a point comes to the full run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, final

import numpy as np

from rayseg import config as configs
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.sweep import tau
from rayseg.sweep.journal import Outcome
from rayseg.sweep.maker import Maker
from rayseg.sweep.search import Donor, Figures, Next, Suggestion
from rayseg.sweep.space import Point
from rayseg.sweep.trial import Trial, describe, short

Settings = Mapping[str, Any]


class Climb(NamedTuple):
    """A trial's point, counted from 0, and its rung, counted from 0."""

    point: int
    rung: int


@final
class Ladder:
    """Lets of the points on each rung the best `1 / reduction_factor` climb; then runs `recheck` stopped ones on."""

    def __init__(
        self,
        maker: Maker,
        points: Sequence[Point],
        rungs: Sequence[Settings],
        *,
        reduction_factor: int,
        fresh: bool = False,
        recheck: int = 0,
    ) -> None:
        self.maker, self.points, self.rungs = maker, list(points), [dict(rung) for rung in rungs]
        self.factor, self.fresh, self.recheck = reduction_factor, fresh, recheck
        self.seed = maker.base.seed
        _check(maker, self.points, self.rungs, fresh=fresh)
        self._first = [self._new(point, self.rungs[0]) for point in self.points]
        self.promotions = 0
        self.climbs: dict[str, Climb] = {}
        self._on: dict[Climb, str] = {}
        self._last: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._stopped: dict[int, int] = {}
        self._checked: list[int] | None = None

    def suggest(self) -> Next:
        """Name the highest promotion due, else a new point; when all came to rest, the stopped ones to check."""
        climb = self._due()
        if climb is None:
            return "wait" if len(self._outcomes) < len(self.climbs) else "done"
        return self._started(climb)

    def _due(self) -> Climb | None:
        if self._checked is None:
            if (climb := self._promotion(least=0)) is not None:
                return climb
            begun = sum(c.rung == 0 for c in self.climbs.values())
            if begun < len(self.points):
                return Climb(begun, 0)
            if len(self._outcomes) < len(self.climbs):
                return None
            if (climb := self._promotion(least=1)) is not None:
                return climb
            self._checked = self._drawn()
        for point in self._checked:
            climb = self._above(point)
            if climb is not None:
                return climb
        return None

    def _promotion(self, *, least: int) -> Climb | None:
        """Find a point among the best of its rung that has not climbed yet, on the highest rung that has one."""
        for rung in range(len(self.rungs) - 2, -1, -1):
            there = self._finished(rung)
            climbed = {c.point for c in self.climbs.values() if c.rung == rung + 1}
            allowed = max(len(there) // self.factor, least) if there else 0
            if least and len(climbed) >= allowed:
                continue
            for point in there[:allowed]:
                if point not in climbed:
                    return Climb(point, rung + 1)
        return None

    def _finished(self, rung: int) -> list[int]:
        """List the points that did all of a rung, the best first; of equals the one that was drawn first."""
        done = [(c.point, self._best[k]) for k, c in self.climbs.items() if c.rung == rung and self._came(k)]
        return [point for point, _ in sorted(done, key=lambda each: (-each[1], each[0]))]

    def _came(self, key: str) -> bool:
        return self._outcomes.get(key) == "finished" and key in self._best

    def _above(self, point: int) -> Climb | None:
        """Give the next rung of a point to check; None while it runs, where it failed, and at the top."""
        rung = max(c.rung for c in self.climbs.values() if c.point == point)
        ready = self._came(self._on[Climb(point, rung)]) and rung + 1 < len(self.rungs)
        return Climb(point, rung + 1) if ready else None

    def _drawn(self) -> list[int]:
        """Note where each point stopped, and draw those that go on to be checked."""
        top = len(self.rungs) - 1
        for point in range(len(self.points)):
            rung = max(c.rung for c in self.climbs.values() if c.point == point)
            if rung < top and self._came(self._on[Climb(point, rung)]):
                self._stopped[point] = rung
        rng = np.random.default_rng([self.seed, len(self._stopped)])
        return sorted(int(p) for p in rng.permutation(sorted(self._stopped))[: self.recheck])

    def _started(self, climb: Climb) -> Suggestion:
        point, settings = self.points[climb.point], self.rungs[climb.rung]
        donor, note, trial = None, "", self._first[climb.point]
        if climb.rung:
            below = self._on[Climb(climb.point, climb.rung - 1)]
            why = "goes on to be checked" if climb.point in self._stopped else "promoted"
            note = f"{below} {why}: rung {climb.rung + 1} of {len(self.rungs)}"
            donor = None if self.fresh else Donor(below, self._last[below])
            self.promotions += climb.point not in self._stopped
            trial = self.maker.onward(donor, {**point, **settings}) if donor else self._new(point, settings)
        self.climbs[trial.key] = climb
        self._on[climb] = trial.key
        return Suggestion(trial, donor, note)

    def _new(self, point: Point, settings: Settings) -> Trial:
        trial = self.maker.new({**point, **settings})
        if not isinstance(trial, Trial):
            raise UsageError(f"the same run as trial {trial}", describe(point), "mend the space or the rungs")
        return trial

    def report(self, key: str, figures: Figures) -> str | None:
        """Note an evaluation; a rung's trial runs to its own end."""
        self._last[key] = int(figures["step"])
        self._best[key] = max(figures["miou"], self._best.get(key, -1.0))
        return None

    def ended(self, key: str, outcome: Outcome) -> None:
        """Note an end; what failed does not climb."""
        self._outcomes[key] = outcome

    def closing(self) -> list[str]:
        """Report how far each rung's ranking could be trusted."""
        names = [" ".join(f"{n.rsplit('.', 1)[-1]}={short(v)}" for n, v in rung.items()) for rung in self.rungs]
        return tau.report(self.scored(), names[:-1])

    def scored(self) -> list[tau.Scored]:
        """Give every point with what it had on each rung, named by its first trial."""
        points = []
        for point in range(len(self.points)):
            came = {c.rung: self._best[k] for k, c in self.climbs.items() if c.point == point and self._came(k)}
            top = len(self.rungs) - 1
            name = self._on.get(Climb(point, 0), str(point))
            below = {rung: miou for rung, miou in came.items() if rung < top}
            points.append(tau.Scored(name, below, came.get(top), self._stopped.get(point)))
        return points


def _check(maker: Maker, points: Sequence[Point], rungs: Sequence[Settings], *, fresh: bool) -> None:
    """Refuse rungs that cannot be climbed, and check each point's config on each rung, before anything starts."""
    if len(rungs) < 2:
        raise UsageError(f"{len(rungs)} rungs", "rungs", "two at least: the last one is the full run")
    searched = {name for point in points for name in point}
    if both := sorted(searched & {name for rung in rungs for name in rung}):
        raise UsageError(f"'{both[0]}' is searched and set by a rung", "rungs", "keep one of them")
    for point in points:
        made = [maker.config({**point, **rung}) for rung in rungs]
        if len({configs.digest(config) for config in made}) < len(made):
            raise UsageError("two rungs are the same run", describe(point), "each rung sets something else")
        for number, (below, above) in enumerate(pairwise(made), start=2):
            if not fresh and above.train.steps <= below.train.steps:
                what = (
                    f"rung {number} ends at step {above.train.steps}, where its weights come from {below.train.steps}"
                )
                raise UsageError(what, "rungs", "raise its train.steps, or start each rung afresh: fresh=true")
            if not fresh and (moved := _other_samples(below, above)):
                what = f"rung {number} changes {moved}: a run that goes on takes the same samples"
                raise UsageError(what, "rungs", "set it for all rungs, or start each rung afresh: fresh=true")
            if not fresh and maker.model(below).shapes != maker.model(above).shapes:
                fix = "set it for all rungs, or start each rung afresh: fresh=true"
                raise UsageError(f"rung {number} changes the model: weights would not fit", "rungs", fix)


def _other_samples(below: RunConfig, above: RunConfig) -> str | None:
    """Name the field by which one run trains on other samples than the other, or in another order."""
    fields = ("shards", "train_split", "share", "mixed_shards")
    return next((f"data.{f}" for f in fields if getattr(below.data, f) != getattr(above.data, f)), None)

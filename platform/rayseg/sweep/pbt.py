"""Population based training: at every `perturb_steps` the worst members go on from the best, with other values.

Jaderberg et al., "Population Based Training of Neural Networks", 2017: truncation selection (the lowest quarter takes
weights and values of one of the highest) and their way to explore (a value is drawn anew with probability 1/4, else a
number is multiplied by 1.2 or 0.8 and a choice moves to its neighbour). Deviations:

- Members wait for each other at a perturbation, as with `synch=True` in Ray Tune. So a population may be larger than
  the room for trials (the members take turns), who ends first does not matter, and a restart decides the same.
- A member that goes on is a new trial that begins from a commit, its own or its donor's: what it was trained with
  stands in its config, and a trial of several workers needs nothing that one of one worker does not.
- Values that change the built model, the momentum or the data's order cannot be searched: the weights would not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, final

import numpy as np

from rayseg.errors import UsageError
from rayseg.sweep.journal import Outcome
from rayseg.sweep.maker import Maker
from rayseg.sweep.search import Donor, Figures, Next, Suggestion
from rayseg.sweep.space import Choice, Dimension, Integer, Point, Space, draw
from rayseg.sweep.trial import Trial, short

ANEW = 0.25
FACTORS = (0.8, 1.2)
FIXED = ("data.", "seed", "start_from", "train.steps", "train.batch", "train.workers", "test.")
"""What a clone has from its donor and cannot choose: its place in the data and in the schedule."""


class Ancestor(NamedTuple):
    """Who came from whom: `donor` is the trial whose weights it began with, its own or, if `exploited`, another's."""

    generation: int
    member: int
    key: str
    donor: str | None
    exploited: bool
    point: Point


class Place(NamedTuple):
    """Where a trial stands in the population."""

    generation: int
    member: int
    trial: Trial


@final
class Pbt:
    """Trains a population of `members` for `steps`, in generations of `perturb_steps`; two members at least."""

    def __init__(self, maker: Maker, *, members: int, perturb_steps: int) -> None:
        self.maker, self.space, self.seed = maker, maker.base.space, maker.base.seed
        self.perturb_steps = perturb_steps
        self.generations = -(-maker.config({}).train.steps // perturb_steps)
        _check(maker, members=members, perturb_steps=perturb_steps)
        self.places: dict[str, Place] = {}
        self.lineage: list[Ancestor] = []
        self._scores: dict[str, tuple[int, float]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._generation = 0
        self._next: list[tuple[int, Suggestion]] = []
        for member, point in enumerate(draw(self.space, members, self.seed)):
            trial = maker.new(point)
            if not isinstance(trial, Trial):
                raise UsageError(f"members {trial} and {member + 1} are the same run", "space", "mend the space")
            self._next.append((member, Suggestion(trial)))
        if len(self._next) < members:
            what = f"{len(self._next)} different points for a population of {members}"
            raise UsageError(what, "space", "lower population, or widen the space")

    def suggest(self) -> Next:
        """Name the next member of this generation; when it is over, breed the next one."""
        if not self._next:
            now = [place for place in self.places.values() if place.generation == self._generation]
            if any(place.trial.key not in self._outcomes for place in now):
                return "wait"
            if self._generation + 1 == self.generations or not any(p.trial.key in self._scores for p in now):
                return "done"
            self._next = self._bred(now)
            self._generation += 1
        member, suggestion = self._next.pop(0)
        trial, donor = suggestion.trial, suggestion.donor
        exploited = donor is not None and self.places[donor.key].member != member
        self.places[trial.key] = Place(self._generation, member, trial)
        before = donor.key if donor else None
        self.lineage.append(Ancestor(self._generation, member, trial.key, before, exploited, trial.point))
        return suggestion

    def _bred(self, now: Sequence[Place]) -> list[tuple[int, Suggestion]]:
        """Let each member go on from itself, and the lowest quarter, or those that failed, from one of the highest."""
        alive = sorted((p for p in now if p.trial.key in self._scores), key=lambda p: (-self._score(p), p.member))
        quarter = max(1, len(now) // 4)
        lost = [p for p in now if p.trial.key not in self._scores]
        kept = alive[: max(1, len(alive) - max(0, quarter - len(lost)))]
        best = kept[:quarter]
        bred: list[tuple[int, Suggestion]] = []
        for place in sorted(now, key=lambda p: p.member):
            taken = [s.trial.point for _, s in bred]
            new = self._onward(place) if place in kept else self._clone(place, best, taken)
            bred.append((place.member, new))
        return bred

    def _score(self, place: Place) -> float:
        return self._scores[place.trial.key][1]

    def _onward(self, place: Place) -> Suggestion:
        donor = Donor(place.trial.key, self._scores[place.trial.key][0])
        note = f"member {place.member + 1} goes on at step {donor.step}"
        return Suggestion(self.maker.onward(donor, place.trial.point), donor, note)

    def _clone(self, place: Place, best: Sequence[Place], taken: Sequence[Point]) -> Suggestion:
        step = (place.generation + 1) * self.perturb_steps
        rng = np.random.default_rng([self.seed, place.member, step])
        source = best[int(rng.integers(len(best)))]
        donor = Donor(source.trial.key, self._scores[source.trial.key][0])
        point = explore(source.trial.point, self.space, rng)
        for _ in range(100):  # a clone with its donor's or a sibling's values would be the same run again
            if point != source.trial.point and point not in taken and self._holds(point):
                break
            point = explore(source.trial.point, self.space, rng)
        own = self._scores.get(place.trial.key)
        fate = f"exploited: {own[1]:.3f} is in the lowest quarter" if own else "failed"
        note = f"member {place.member + 1} {fate}, goes on from {donor.key} at step {donor.step} with other values"
        return Suggestion(self.maker.onward(donor, point), donor, note)

    def _holds(self, point: Point) -> bool:
        try:
            self.maker.config(point)
        except UsageError:
            return False
        return True

    def report(self, key: str, figures: Figures) -> str | None:
        """Note a member's mIoU; at a perturbation it ends here, and goes on as a new trial when all are there."""
        step, place = int(figures["step"]), self.places[key]
        self._scores[key] = (step, figures["miou"])
        if step < (place.generation + 1) * self.perturb_steps or place.generation + 1 == self.generations:
            return None
        generation = f"generation {place.generation + 1} of {self.generations}"
        came = f"{generation} is over, mIoU {figures['miou']:.3f}"
        return f"stopped at step {step} by PBT: {came}; what goes on is a new trial"

    def ended(self, key: str, outcome: Outcome) -> None:
        """Note that a member came to the perturbation, or failed: then it goes on from another."""
        self._outcomes[key] = outcome
        if outcome == "failed":
            self._scores.pop(key, None)

    def closing(self) -> list[str]:
        """Write who came from whom, a line a trial."""
        counts = Counter(a.exploited for a in self.lineage if a.donor)
        lines = [f"population: {counts[True]} exploited and perturbed, {counts[False]} went on by themselves"]
        for a in self.lineage:
            score = f"{self._scores[a.key][1]:.3f}" if a.key in self._scores else "-"
            origin = f"from {a.donor}{', exploited' if a.exploited else ''}" if a.donor else "new"
            values = " ".join(f"{name.rsplit('.', 1)[-1]}={short(value)}" for name, value in a.point.items())
            lines.append(f"  generation {a.generation + 1} member {a.member + 1} {a.key} {score} {origin}: {values}")
        return lines


def explore(point: Point, space: Space, rng: np.random.Generator) -> Point:
    """Move each value: drawn anew with probability 1/4, else a number times 0.8 or 1.2, a choice to its neighbour."""
    explored: Point = {}
    for name, dimension in space.items():
        if not dimension.exists(explored):
            continue
        anew = rng.random() < ANEW or name not in point
        explored[name] = dimension.draw(rng) if anew else _moved(dimension, point[name], rng)
    return explored


def _moved(dimension: Dimension, value: float, rng: np.random.Generator) -> object:
    side: Literal[0, 1] = 1 if rng.random() < 0.5 else 0
    if isinstance(dimension, Choice):
        at = dimension.values.index(value) + (1 if side else -1)
        return dimension.values[min(max(at, 0), len(dimension.values) - 1)]
    moved = value * FACTORS[side]
    if isinstance(dimension, Integer):
        # At least one step away, else a small number would never move.
        away = max(1, round(abs(moved - value) / dimension.step)) * (1 if moved > value else -1)
        return int(min(max(value + away * dimension.step, dimension.low), dimension.high))
    return min(max(float(f"{moved:.4g}"), dimension.low), dimension.high)


def _check(maker: Maker, *, members: int, perturb_steps: int) -> None:
    """Refuse what PBT cannot do, before anything starts."""
    train = maker.config({}).train
    if members < 2:
        raise UsageError(f"population = {members}", "--algorithm pbt", "two members at least; four for a real quarter")
    if perturb_steps >= train.steps:
        fix = "lower perturb_steps, or raise train.steps"
        raise UsageError(f"perturb_steps = {perturb_steps} of train.steps = {train.steps}", "--algorithm pbt", fix)
    if perturb_steps % train.eval_every:
        fix = "make perturb_steps a multiple of train.eval_every: a member is judged where it is evaluated"
        raise UsageError(f"perturb_steps = {perturb_steps}, eval_every = {train.eval_every}", "--algorithm pbt", fix)
    for name, dimension in maker.base.space.items():
        if name.startswith(FIXED) or name == "optim.name":
            raise UsageError(f"'{name}' cannot change on the way", "--algorithm pbt", "set it, or search it with tpe")
        if len({maker.model(maker.config({name: value})).fingerprint for value in dimension.ends()}) > 1:
            fix = "weights would not fit: set it, or search it with tpe or asha"
            raise UsageError(f"'{name}' changes the model", "--algorithm pbt", fix)

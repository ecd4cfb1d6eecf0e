"""A search that chooses each point by what the earlier ones came to: TPE and BOHB are models of it.

A point that was tried is never run again: a model that names one is told what is known of it and asked once more, a
few times, and then a point is drawn that was not tried. What a model names hangs on what it is told and on the number
of the trial, on nothing else: told the same story, the search decides the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, final

from rayseg.errors import UsageError
from rayseg.sweep.asha import Rule
from rayseg.sweep.journal import Outcome
from rayseg.sweep.maker import Maker
from rayseg.sweep.search import Figures, Next, Suggestion
from rayseg.sweep.space import Point, draw
from rayseg.sweep.trial import Trial

ASKED_AGAIN = 8
"""So often a model may name points that were tried, for one trial."""
DRAWN = 100
"""So many draws that were not tried must give one whose config holds, or the search is over."""


class Seen(NamedTuple):
    """What is known of a point: mIoU by step, and the values of the objectives, each the more the better."""

    point: Point
    state: Literal["running", "finished", "stopped", "failed"]
    curve: Mapping[int, float]
    values: tuple[float, ...] | None


class Model(Protocol):
    """Chooses points; a pure function of its arguments."""

    def propose(self, seen: Sequence[Seen], seeds: Sequence[int]) -> Point:
        """Name a point, by all seen so far, in their order; `seeds` make this proposal's own random numbers."""


Objectives = Callable[[Trial, Figures], tuple[float, ...]]


def miou_alone(trial: Trial, figures: Figures) -> tuple[float, ...]:
    """Give the one objective of most searches."""
    return (figures["miou"],)


@final
class Sequential:
    """Makes `trials` trials of the points that `model` names; `rule` stops the worse ones early.

    `refused` lists the points whose config does not hold, with the reason; they cost no trial.
    """

    def __init__(
        self,
        maker: Maker,
        model: Model,
        *,
        trials: int,
        rule: Rule | None = None,
        objectives: Objectives = miou_alone,
    ) -> None:
        self.maker, self.model = maker, model
        self.num_trials, self.rule, self.objectives = trials, rule, objectives
        self.seed = maker.base.seed
        self.refused: list[tuple[Point, str]] = []
        self._seen: dict[str, Seen] = {}
        self._own: list[str] = []

    def know(self, trial: Trial, curve: Mapping[int, float], values: tuple[float, ...]) -> None:
        """Take in a point of an earlier sweep, before the first suggestion: it counts as tried, and costs no trial."""
        self.maker.known([trial])
        self._seen[trial.key] = Seen(trial.point, "finished", dict(curve), values)

    def suggest(self) -> Next:
        """Ask the model; at most as many trials as there are points that hold."""
        if len(self._own) == self.num_trials:
            return "done"
        trial = self._asked() or self._drawn()
        if trial is None:
            return "done"
        self._own.append(trial.key)
        self._seen[trial.key] = Seen(trial.point, "running", {}, None)
        if self.rule is not None:
            self.rule.enter(trial.key)
        return Suggestion(trial)

    def _asked(self) -> Trial | None:
        told = list(self._seen.values())
        for attempt in range(ASKED_AGAIN):
            point = self.model.propose(told, (self.seed, len(self._own), attempt))
            made = self._made(point)
            if isinstance(made, Trial):
                return made
            told.append(self._seen[made] if made else Seen(point, "failed", {}, None))
        return None

    def _drawn(self) -> Trial | None:
        """Draw points until one is new; None where all were tried."""
        wanted = len(self._seen) + len(self.refused) + DRAWN
        for point in draw(self.maker.base.space, wanted, self.seed):
            made = self._made(point)
            if isinstance(made, Trial):
                return made
        return None

    def _made(self, point: Point) -> Trial | str | None:
        """Make a trial, or give the key of the one that is the same run; None where the config does not hold."""
        try:
            return self.maker.new(point)
        except UsageError as error:
            if all(point != refused for refused, _ in self.refused):
                self.refused.append((point, str(error)))
            return None

    def report(self, key: str, figures: Figures) -> str | None:
        """Note an evaluation and ask the rule; of several objectives those of the best mIoU stand."""
        seen, step = self._seen[key], int(figures["step"])
        curve = {**seen.curve, step: figures["miou"]}
        best = seen.values is None or figures["miou"] >= max(curve.values())
        values = self.objectives(self.maker.trials[key], figures) if best else seen.values
        self._seen[key] = seen._replace(curve=curve, values=values)
        verdict = self.rule.judge(key, step, figures["miou"]) if self.rule is not None else None
        return None if verdict is None else str(verdict)

    def ended(self, key: str, outcome: Outcome) -> None:
        """Note how it ended; one that came to no evaluation failed, for the model."""
        seen = self._seen[key]
        self._seen[key] = seen._replace(state=outcome if seen.values is not None else "failed")

    def closing(self) -> list[str]:
        """Name the points that could not be run."""
        return [f"not run: {point}: {why}" for point, why in self.refused]

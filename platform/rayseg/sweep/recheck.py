"""Runs some of the stopped trials to their end, once all others are over, to check whether stopping them was right."""

from __future__ import annotations

from typing import final

import numpy as np

from rayseg.sweep import tau
from rayseg.sweep.asha import Rule, at_rung
from rayseg.sweep.journal import Outcome
from rayseg.sweep.maker import Maker
from rayseg.sweep.search import Donor, Figures, Next, Search, Suggestion
from rayseg.sweep.trial import Trial


@final
class Rechecked:
    """A search whose `rule` stops trials; after it `count` of those, drawn with `seed`, go on from where they stood.

    With `count` 0 it only adds the report on the rungs.
    """

    def __init__(self, search: Search, maker: Maker, rule: Rule, *, count: int, seed: int) -> None:
        self.search, self.maker, self.rule = search, maker, rule
        self.count, self.seed = count, seed
        self.continued: dict[str, str] = {}
        self._trials: dict[str, Trial] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._own_last: dict[str, int] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._left: list[Trial] | None = None

    def suggest(self) -> Next:
        """Ask the search; when it is done and all its trials are over, name the stopped ones that go on."""
        if self._left is None:
            answer = self.search.suggest()
            if isinstance(answer, Suggestion):
                self._trials[answer.trial.key] = answer.trial
            if answer != "done" or self.count == 0:
                return answer
            if len(self._outcomes) < len(self._trials):
                return "wait"
            self._left = self._drawn()
        if not self._left:
            return "done"
        stopped = self._left.pop(0)
        donor = Donor(stopped.key, max(self._curves[stopped.key]))
        trial = self.maker.onward(donor, stopped.point)
        self.continued[trial.key] = stopped.key
        return Suggestion(trial, donor, f"stopped trial {stopped.key} goes on to the end, to check the verdict")

    def _drawn(self) -> list[Trial]:
        """Draw from the stopped trials in the order of their numbers, so that who ended first does not matter."""
        stopped = [t for t in self._trials.values() if self._outcomes[t.key] == "stopped" and self._curves.get(t.key)]
        rng = np.random.default_rng([self.seed, len(stopped)])
        chosen = rng.permutation(len(stopped))[: self.count]
        return [sorted(stopped, key=lambda t: t.number)[i] for i in sorted(chosen)]

    def report(self, key: str, figures: Figures) -> str | None:
        """Pass an evaluation on; one that is checked is not judged again."""
        origin = self.continued.get(key, key)
        step = int(figures["step"])
        self._curves.setdefault(origin, {})[step] = figures["miou"]
        if key in self.continued:
            return None
        self._own_last[key] = step
        return self.search.report(key, figures)

    def ended(self, key: str, outcome: Outcome) -> None:
        """Pass an end on."""
        self._outcomes[key] = outcome
        if key not in self.continued:
            self.search.ended(key, outcome)

    def closing(self) -> list[str]:
        """Report on the rungs after what the search itself has to say."""
        steps = self.rule.steps()
        return [*self.search.closing(), *tau.report(self.scored(), [f"step {step}" for step in steps])]

    def scored(self) -> list[tau.Scored]:
        """Give every trial with what it had at each rung."""
        to_the_end = {key for key, outcome in self._outcomes.items() if outcome == "finished"}
        ended = {self.continued.get(key, key) for key in to_the_end}
        points = []
        for trial in self._trials.values():
            curve = self._curves.get(trial.key, {})
            at = {i: miou for i, step in enumerate(self.rule.steps()) if (miou := at_rung(curve, step)) is not None}
            points.append(tau.Scored(trial.key, at, self._full(trial.key, ended), self._stopped_at(trial.key)))
        return points

    def _full(self, key: str, ended: set[str]) -> float | None:
        return max(self._curves[key].values()) if key in ended and self._curves.get(key) else None

    def _stopped_at(self, key: str) -> int | None:
        if self._outcomes.get(key) != "stopped":
            return None
        return sum(step <= self._own_last.get(key, 0) for step in self.rule.steps()) - 1

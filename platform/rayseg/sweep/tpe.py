"""Points by the tree-structured Parzen estimator, as Optuna has it, asked anew for each trial. The only importer of it.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011. For every proposal a study is made in memory
and told all that is known, so nothing has to be kept or brought back: the journal is enough, and no pickle is read.

- A trial that runs is told as running: Optuna takes it for a bad one (the constant liar), so that trials at once
  spread out. One that failed is told as failed, which says nothing for or against its point.
- The values of a choice have no order for the estimator. A value that exists under a condition is estimated from the
  points that have it, each name by itself; without conditions, and with one objective, all names are estimated jointly.
- Numbers are rounded to four digits after the proposal, and told as they ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from rayseg.sweep.sequential import Seen
from rayseg.sweep.space import Choice, Dimension, Integer, Point, Space, one


@final
class Tpe:
    """Draws the first `startup` points, then asks Optuna's estimator; `objectives` counts them."""

    def __init__(self, space: Space, *, startup: int, objectives: int = 1) -> None:
        self.space, self.startup, self.objectives = space, startup, objectives

    def propose(self, seen: Sequence[Seen], seeds: Sequence[int]) -> Point:
        """Name a point, by the values of those that ended and by where others run."""
        if sum(s.state in ("finished", "stopped") for s in seen) < self.startup:
            return one(self.space, np.random.default_rng(seeds))
        study = self._study(seeds)
        study.add_trials([self._told(s) for s in seen if self._within(s.point)])
        trial = study.ask()
        point: Point = {}
        for name, dimension in self.space.items():
            if dimension.exists(point):
                point[name] = _suggested(trial, name, dimension)
        return point

    def _within(self, point: Point) -> bool:
        """Say whether a point could have been drawn here; one of an earlier sweep may lie outside."""
        return all(
            _distribution(d)._contains(_told(d, point[name])) if name in point else not d.exists(point)
            for name, d in self.space.items()
        )

    def _study(self, seeds: Sequence[int]) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it prints a line for every study
        plain = self.objectives == 1 and not any(d.when for d in self.space.values())
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(n_startup_trials=self.startup, multivariate=plain, seed=seed)
        return optuna.create_study(sampler=sampler, directions=["maximize"] * self.objectives)

    def _told(self, seen: Seen) -> FrozenTrial:
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        for name, dimension in self.space.items():
            if name in seen.point:
                params[name] = _told(dimension, seen.point[name])
                distributions[name] = _distribution(dimension)
        state = {"running": TrialState.RUNNING, "failed": TrialState.FAIL}.get(seen.state, TrialState.COMPLETE)
        values = list(seen.values) if state == TrialState.COMPLETE and seen.values is not None else None
        return create_trial(params=params, distributions=distributions, state=state, values=values)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(range(len(dimension.values)))
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _suggested(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values[trial.suggest_categorical(name, range(len(dimension.values)))]
    low, high = dimension.low, dimension.high
    if isinstance(dimension, Integer):
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return min(max(float(f"{trial.suggest_float(name, low, high, log=dimension.log):.4g}"), low), high)


def _told(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values.index(value) if value in dimension.values else -1
    return value

"""Points by BOHB: TPE fitted at the highest rung that enough trials have reached, under HyperBand's brackets.

Falkner et al., "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML 2018. A third of the points is
drawn at random, so that the guarantees of HyperBand stay; the others come from the model of the largest budget with
enough results: N_min + 2, with N_min = d + 1 for d searched names. Deviations:

- The estimator is Optuna's TPE (`tpe.py`) in place of the paper's kernel densities with a minimal bandwidth; a trial
  that runs and has not reached that rung yet counts as a bad one there (constant liar).
- The brackets are asynchronous (`hyperband.py`): nobody waits for a rung to fill.
- The paper splits the results at 15 % and at least d + 1 good ones; Optuna chooses its own split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from rayseg.sweep.asha import at_rung
from rayseg.sweep.sequential import Seen
from rayseg.sweep.space import Point, Space, one
from rayseg.sweep.tpe import Tpe

AT_RANDOM = 1 / 3


@final
class Bohb:
    """`rungs` are the steps to compare trials at, the first one first, the whole run's steps last."""

    def __init__(self, space: Space, rungs: Sequence[int]) -> None:
        self.space, self.rungs = space, tuple(rungs)

    def propose(self, seen: Sequence[Seen], seeds: Sequence[int]) -> Point:
        """Draw, or ask the model of the highest rung that has one."""
        if np.random.default_rng([*seeds, 1]).random() < AT_RANDOM:
            return one(self.space, np.random.default_rng(seeds))
        for step in reversed(self.rungs):
            there = self.at(seen, step)
            if sum(s.values is not None for s in there) >= self.enough():
                return Tpe(self.space, startup=0).propose(there, seeds)
        return one(self.space, np.random.default_rng(seeds))

    def enough(self) -> int:
        """Count the results that a model takes: the paper's N_min + 2, with N_min = d + 1."""
        return len(self.space) + 3

    def at(self, seen: Sequence[Seen], step: int) -> list[Seen]:
        """Give the trials as a rung knows them: with their mIoU there, running where they may still come to it."""
        there = []
        for s in seen:
            miou = at_rung(s.curve, step)
            if miou is not None:
                there.append(s._replace(state="finished", values=(miou,)))
            elif s.state == "running":
                there.append(s._replace(values=None))
        return there

"""HyperBand's brackets as a stopping rule: the same trials under early, late and no halving at once.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018. Successive halving bets
that an early ranking holds; HyperBand hedges the bet with brackets that look first at step r, r·η, r·η², ... and one
that never looks. Deviations:

- The halving inside a bracket is ASHA's, as in Ray Tune's AsyncHyperBandScheduler(brackets=n): nobody waits for a
  bracket to fill, so no trial is paused, and a trial of several workers needs nothing that one of one worker does not.
- The paper runs the brackets one after the other, n_s trials each. Here trials go to the brackets in turn, in the
  shares that the paper gives them, so that a sweep of any number of trials has the paper's mix.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

from rayseg.sweep.asha import Asha, Verdict


class Bracket(NamedTuple):
    """`trials` of the paper's budget go through as many halvings as `asha` has rungs."""

    trials: int
    asha: Asha


def brackets(*, grace_steps: int, max_steps: int, reduction_factor: int) -> list[Bracket]:
    """Lay the brackets out, the one with the most halvings first, the one without any last."""
    most = len(Asha(grace_steps=grace_steps, max_steps=max_steps, reduction_factor=reduction_factor).rungs)
    laid_out = []
    for halvings in range(most, -1, -1):
        first = grace_steps * reduction_factor ** (most - halvings)
        asha = Asha(grace_steps=first, max_steps=max_steps, reduction_factor=reduction_factor)
        laid_out.append(Bracket(math.ceil((most + 1) * reduction_factor**halvings / (halvings + 1)), asha))
    return laid_out


@final
class HyperBand:
    """Puts each trial into a bracket when it begins, and lets that bracket's ASHA judge it."""

    def __init__(self, *, grace_steps: int, max_steps: int, reduction_factor: int) -> None:
        self.brackets = brackets(grace_steps=grace_steps, max_steps=max_steps, reduction_factor=reduction_factor)
        self.members: list[set[str]] = [set() for _ in self.brackets]

    def enter(self, key: str) -> None:
        """Put a trial where the share lacks most; of equals into the one with more halvings."""
        total = sum(bracket.trials for bracket in self.brackets)
        begun = sum(map(len, self.members)) + 1
        # In whole numbers, so that the choice is the same everywhere: n_s / N * begun - given, times N.
        lack = [b.trials * begun - len(m) * total for b, m in zip(self.brackets, self.members, strict=True)]
        self.members[lack.index(max(lack))].add(key)

    def judge(self, key: str, step: int, miou: float) -> Verdict | None:
        """Take in a report; a verdict where the trial's bracket stops it."""
        for number, members in enumerate(self.members):
            if key in members:
                verdict = self.brackets[number].asha.judge(key, step, miou)
                by = f"HyperBand's bracket {number + 1}"
                return None if verdict is None else verdict._replace(by=by)
        raise KeyError(key)

    def steps(self) -> list[int]:
        """List the steps of all rungs: those of the first bracket, the others' are among them."""
        return self.brackets[0].asha.steps()

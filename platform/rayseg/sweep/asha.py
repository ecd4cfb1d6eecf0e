"""ASHA's rule as a pure object: the same rungs and cut as Ray Tune's, rebuilt after a restart from the journal.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020).
Tune's own scheduler keeps its rungs in the driver's memory and brings them back from a pickle only; fed with the same
reports this one decides the same, which the tests check against Tune's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Verdict(NamedTuple):
    """Why a trial was stopped; `rung` counts from 1, at `step` updates."""

    rung: int
    step: int
    miou: float
    cut: float
    by: str = "ASHA"

    def __str__(self) -> str:
        where = f"rung {self.rung} (step {self.step})"
        return f"stopped at {where} by {self.by}: mIoU {self.miou:.3f} under the cut {self.cut:.3f}"


class Rule(Protocol):
    """Stops trials early. `rungs` of `steps` are where it looks; the last step is none of them."""

    def enter(self, key: str) -> None:
        """Take in that a trial begins."""

    def judge(self, key: str, step: int, miou: float) -> Verdict | None:
        """Take in a report; a verdict where the trial should go no further."""

    def steps(self) -> list[int]:
        """List the steps of all rungs, the first one first."""


def at_rung(curve: Mapping[int, float], step: int) -> float | None:
    """Look a trial's mIoU up at a rung: its first evaluation (they are given by step) at `step` or later."""
    return next((curve[at] for at in sorted(curve) if at >= step), None)


class Asha:
    """Stops a trial that, at a rung, is not among the best `1 / reduction_factor` of those that reached it."""

    def __init__(self, *, grace_steps: int, max_steps: int, reduction_factor: int) -> None:
        self.factor = reduction_factor
        self.rungs: list[tuple[int, dict[str, float]]] = []
        step = grace_steps
        while step < max_steps:
            self.rungs.append((step, {}))
            step *= reduction_factor

    def enter(self, key: str) -> None:
        """Take in that a trial begins; here they all have the same rungs."""

    def judge(self, key: str, step: int, miou: float) -> Verdict | None:
        """Take in a report; a verdict where the trial should go no further."""
        reached = [(i, at, seen) for i, (at, seen) in enumerate(self.rungs, start=1) if at <= step]
        if not reached or key in reached[-1][2]:
            return None
        rung, _, seen = reached[-1]
        cut = float(np.percentile(list(seen.values()), (1 - 1 / self.factor) * 100)) if seen else None
        seen[key] = miou
        return Verdict(rung, step, miou, cut) if cut is not None and miou < cut else None

    def steps(self) -> list[int]:
        """List the rungs' steps."""
        return [at for at, _ in self.rungs]

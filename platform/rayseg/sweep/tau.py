"""Could the early ranking be trusted? Kendall's tau between each rung and the full run, and what re-run points came to.

Points that survive to the end are the good ones, so a tau over them alone says little about the stopped ones: that is
what re-running a few of those to the end is for. A point's full score is its best mIoU, by which a sweep is ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple


class Scored(NamedTuple):
    """What a point came to: mIoU at each rung that it reached, counted from 0; `full` where it was run to the end.

    `stopped_at` is the rung whose verdict it had, also where it was run on after that to check it.
    """

    name: str
    at: Mapping[int, float]
    full: float | None
    stopped_at: int | None = None

    @property
    def checked(self) -> bool:
        """Whether it was stopped, and run to the end nevertheless."""
        return self.stopped_at is not None and self.full is not None


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute Kendall's tau-b of two rankings of the same points; NaN where one of them has no two different values."""
    agree = disagree = ties_one = ties_other = 0
    for (a, b), (c, d) in combinations(zip(one, other, strict=True), 2):
        first, second = (a > c) - (a < c), (b > d) - (b < d)
        agree += first * second > 0
        disagree += first * second < 0
        ties_one += first == 0
        ties_other += second == 0
    pairs = len(one) * (len(one) - 1) // 2
    scale = math.sqrt((pairs - ties_one) * (pairs - ties_other))
    return (agree - disagree) / scale if scale else math.nan


def report(points: Sequence[Scored], rungs: Sequence[str]) -> list[str]:
    """Write the lines for the end of a sweep; `rungs` names those before the full run, the first one first."""
    if not rungs or not any(p.full is not None for p in points):
        return []
    lines = ["ranking at each rung against the full run (Kendall's tau-b; 1: the same order, 0: no relation):"]
    for rung, name in enumerate(rungs):
        both = [(p.at[rung], p.full) for p in points if rung in p.at and p.full is not None]
        tau = kendall([early for early, _ in both], [full for _, full in both])
        found = "too few to tell" if math.isnan(tau) else f"tau {tau:+.2f}"
        lines.append(f"  rung {rung + 1} ({name}): {found} over {len(both)} points")
    return [*lines, *_verdicts(points)]


def _verdicts(points: Sequence[Scored]) -> list[str]:
    stopped = [p for p in points if p.stopped_at is not None]
    checked = [p for p in stopped if p.checked]
    if not stopped:
        return []
    if not checked:
        return [f"none of {len(stopped)} stopped points was run to the end: `recheck` asks for some"]
    best = max((p.full for p in points if p.full is not None and not p.checked), default=-math.inf)
    lines = [f"{len(checked)} of {len(stopped)} stopped points were run to the end to check the verdict:"]
    for p in checked:
        assert p.stopped_at is not None
        assert p.full is not None
        was = f"stopped at rung {p.stopped_at + 1}" + (
            f" with {p.at[p.stopped_at]:.3f}" if p.stopped_at in p.at else ""
        )
        end = "it would have won" if p.full > best else "the verdict holds"
        lines.append(f"  {p.name} {was}, came to {p.full:.3f} (best of the others {best:.3f}): {end}")
    wrong = sum(p.full > best for p in checked if p.full is not None)
    return [
        *lines,
        f"{wrong} of {len(checked)} re-run points would have won" if wrong else "no re-run point would have won",
    ]

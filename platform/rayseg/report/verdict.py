"""A report's first sentence: a winner with its interval, a tie, or that nothing was decided, and what that means."""

from __future__ import annotations

from typing import Literal, NamedTuple

from rayseg.report.values import Report
from rayseg.sweep.judged import Judged, Pair

Kind = Literal["winner", "tie", "open"]


class Verdict(NamedTuple):
    """The sentence, what it means, and, of a sweep that goes on, how far it is."""

    kind: Kind
    line: str
    means: str
    standing: str


def verdict(report: Report) -> Verdict:
    """Say who won."""
    standing = _standing(report)
    finals = report.finals
    if finals is None or not finals.pairs:
        best = report.trial(report.winner)
        line = f"{best.key} leads with mIoU {best.miou:.4f}; nothing says yet that it is more than chance"
        means = "No finals were run: with --seeds the best run again with more seeds, and are compared image by image."
        return Verdict("open", line, means, standing)
    return Verdict(*_compared(finals), standing)


def _compared(finals: Judged) -> tuple[Kind, str, str]:
    near, best = min(finals.pairs, key=lambda pair: pair.low), finals.finalists[0]
    apart, level = _interval(near), f"{100 * near.level:.4g} %"
    if finals.verdict.startswith("winner"):
        line = f"{best.key} wins: mIoU {best.mean:.4f} over {len(best.seeds)} seeds, {apart} above {near.other}"
        nearest = ", the nearest of the finalists" if len(finals.pairs) > 1 else ""
        means = f"With probability {level} its lead over {near.other}{nearest} lies in this interval, and it excludes 0"
        return "winner", line, f"{means}: more than chance over {finals.images} validation images and the seeds."
    if finals.verdict.startswith("tie"):
        line = f"A tie: {near.best} and {near.other} differ by {apart} mIoU"
        means = f"The interval (probability {level}) holds 0: on {finals.images} validation images and these seeds the "
        return "tie", line, f"{means}finalists cannot be told apart. Take the cheaper one, or add seeds and images."
    if max(len(each.seeds) for each in finals.finalists) == 1:
        line = f"One seed each, images only: {near.best} is {apart} mIoU above {near.other}"
        means = (
            f"The interval (probability {level}) is over {finals.images} validation images alone. Another seed of the "
        )
        return "open", line, f"{means}same run may differ by more, so no winner is named; --seeds runs more."
    reason = finals.verdict.partition("; ")[2] or finals.verdict
    return "open", f"Nothing is decided: {near.best} is {apart} mIoU above {near.other}", f"Because {reason}."


def _interval(pair: Pair) -> str:
    return f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}]"


def _standing(report: Report) -> str:
    running = sum(trial.state == "runs" for trial in report.trials)
    if report.over and not running:
        return ""
    ended = len(report.trials) - running
    more = f", {report.waiting} not begun" if report.waiting else ""
    return f"The sweep is not over: {ended} trials ended, {running} run or are paused{more}. All this may change."

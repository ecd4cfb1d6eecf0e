"""The end of a sweep: whether its best trial is better than the others by more than chance, and so the champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.cluster.attempt import Attempt
from rayseg.cluster.choosing import best_of
from rayseg.durable import write_atomically
from rayseg.errors import CheckpointError, DataError, RaysegError
from rayseg.schema import to_dict
from rayseg.sweep import bootstrap
from rayseg.sweep.bootstrap import Counts, Scored
from rayseg.sweep.finals import Finals
from rayseg.sweep.judged import PLACE, Finalist, Judged, Pair
from rayseg.sweep.table import Row
from rayseg.sweep.trial import Trial, describe

Show = Callable[[str], None]


class _Side(NamedTuple):
    key: str
    trials: list[Trial]
    counts: list[Counts]


def judge(attempt: Attempt, rows: Sequence[Row], show: Show) -> Judged | None:
    """Compare the finalists, or where there were none the best two of the ranking; leave it in `finals.json`.

    `rows` are those of all trials, ranked, the finalists' further seeds among them. None where there is nothing to
    compare; what cannot be compared is said in a line.
    """
    search = attempt.search.search
    finals = isinstance(search, Finals)
    try:
        groups = search.groups if isinstance(search, Finals) else _best_two(attempt, rows)
        sides = [side for key, keys in groups.items() if (side := _side(attempt, key, keys, rows, show)) is not None]
        if len(sides) < 2:
            if groups:
                show("the best trials cannot be compared: fewer than two came to their end")
            return None
        judged = _judged(sides, varied=finals)
    except RaysegError as error:
        show(f"warning: the best trials cannot be compared: {error}")
        return None
    write_atomically(attempt.sweeping.folder / PLACE, json.dumps(to_dict(judged), indent=1))
    points = {side.key: side.trials[0].point for side in sides}
    for line in _lines(judged, points):
        show(line)
    return judged


def _side(attempt: Attempt, key: str, keys: Sequence[str], rows: Sequence[Row], show: Show) -> _Side | None:
    """Gather what a finalist came to; None where none of its runs did."""
    over = {row.trial.key: row.trial for row in rows if row.summary is not None}
    lost = [each for each in keys if each not in over]
    if lost and len(keys) > 1:
        show(f"warning: {len(lost)} of {len(keys)} runs of finalist {key} failed: it is judged by the others")
    trials = [over[each] for each in keys if each in over]
    return _Side(key, trials, [counts_of(attempt.run_dir(t.key)) for t in trials]) if trials else None


def counts_of(run_dir: Path) -> Counts:
    """Read what a run's best evaluation counted: pixels hit, in truth and found, of each image and class (3,N,C).

    Raises:
        CheckpointError: there is no evaluation, or it does not tell images apart.
    """
    best = best_of(run_dir)
    images = best.seen.images
    if not len(images.hits):
        what = "its evaluation does not tell images apart: an earlier version made it"
        raise CheckpointError(what, best.commit, "run the sweep anew to compare its trials")
    return np.stack(images)


def _judged(sides: Sequence[_Side], *, varied: bool) -> Judged:
    truths = [counts[1] for side in sides for counts in side.counts]
    if len(truths[0]) < 2:
        raise DataError("they were judged on one image", "finals", "evaluate on more: data.val_samples")
    if any(truth.shape != truths[0].shape or (truth != truths[0]).any() for truth in truths):
        fix = "search nothing of `data` that changes them"
        raise DataError("they were not judged on the same images", "finals", fix)
    scored = bootstrap.scored([side.counts for side in sides])
    order = sorted(range(len(sides)), key=lambda i: -scored[i].mean)
    first, *others = order
    intervals = bootstrap.against(scored[first], [scored[i] for i in others])
    pairs = tuple(
        Pair(best=sides[first].key, other=sides[i].key, **found._asdict())
        for i, found in zip(others, intervals, strict=True)
    )
    seeded = all(len(each.miou) > 1 for each in scored)
    lacking = _lacking(len(truths[0]), seeded=seeded, varied=varied)
    return Judged(
        images=len(truths[0]),
        seeds_varied=seeded,
        finalists=tuple(_finalist(sides[i], scored[i]) for i in order),
        pairs=pairs,
        verdict=_verdict(pairs, lacking),
    )


def _finalist(side: _Side, scored: Scored) -> Finalist:
    return Finalist(
        key=side.key,
        trials=tuple(trial.key for trial in side.trials),
        seeds=tuple(trial.config.seed for trial in side.trials),
        miou=tuple(map(float, scored.miou)),
        mean=scored.mean,
        spread=scored.spread,
    )


def nearest(pairs: Sequence[Pair]) -> Pair:
    """Give the pair whose interval comes nearest to 0, or lies farthest below it."""
    return min(pairs, key=lambda pair: pair.low)


def _lacking(images: int, *, seeded: bool, varied: bool) -> str:
    """Say what there is too little of to decide; nothing where it suffices."""
    if not varied:
        return "seeds were not varied"
    if not seeded:
        return "not every finalist has a second seed"
    return f"{images} images are too few to decide" if images < bootstrap.ENOUGH else ""


def _verdict(pairs: Sequence[Pair], lacking: str) -> str:
    pair = nearest(pairs)
    apart = f"{pair.best} and {pair.other} differ by {interval(pair)}"
    if lacking:
        return f"open: {apart}; {lacking}, so no champion is named"
    return f"winner {pair.best}" if pair.low > 0 else f"tie: {apart}; no champion is named"


def interval(pair: Pair) -> str:
    """Write a difference and its interval."""
    return f"{pair.difference:.4f} [{pair.low:.4f}, {pair.high:.4f}]"


# --- lines ----------------------------------------------------------------------------------------------------------


def _lines(judged: Judged, points: Mapping[str, Mapping[str, Any]]) -> list[str]:
    over, near = f"over {judged.images} images", nearest(judged.pairs)
    if max(len(each.trials) for each in judged.finalists) == 1:
        apart = f"{near.best} is {interval(near)} mIoU above {near.other}"
        return [
            f"best two: {apart} ({near.level:.0%}, {over}); seeds were not varied (--seeds), so no champion is named"
        ]
    runs = sorted({len(each.trials) for each in judged.finalists})
    seeds = " or ".join(map(str, runs)) + " seeds each"
    lines = [f"finals: the best {len(judged.finalists)} with {seeds}, {over}; intervals are of images and seeds:"]
    for each in judged.finalists:
        spread = "" if each.spread is None else f" +- {each.spread:.4f}"
        each_run = " ".join(f"{miou:.4f}" for miou in each.miou)
        lines.append(f"  {each.key}  mIoU {each.mean:.4f}{spread} ({each_run})  {describe(points[each.key])}")
    for pair in judged.pairs if len(judged.pairs) > 1 else ():
        lines.append(f"  {pair.best} - {pair.other}: {interval(pair)} ({pair.level:.1%})")
    if judged.winner:
        others = f", the nearest of {len(judged.pairs)}" if len(judged.pairs) > 1 else ""
        return [*lines, f"winner: {near.best} is {interval(near)} mIoU above {near.other}{others}"]
    return [*lines, judged.verdict]


# --- without finals -------------------------------------------------------------------------------------------------


def _best_two(attempt: Attempt, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Name the best trial and the next one that is another point, and not the same one earlier or later on."""
    ended = [row for row in rows if row.summary is not None]
    best = ended[0] if ended else None
    second = next((row for row in ended[1:] if best and not _akin(attempt, best.trial, row.trial)), None)
    if best is None or second is None:
        return {}
    if best.run or second.run:
        what = f"{(best if best.run else second).trial.key} was run by an earlier sweep"
        raise CheckpointError(what, "best two", "its images are not counted here; --seeds runs it again")
    return {row.trial.key: [row.trial.key] for row in (best, second)}


def _akin(attempt: Attempt, one: Trial, other: Trial) -> bool:
    """Say whether two trials have the same searched values, or one goes on from the other's weights."""
    base = attempt.sweeping.planner.plan.base
    searched = {*base.space, *(name for row in base.rows for name in row)}
    values = [{name: v for name, v in trial.point.items() if name in searched} for trial in (one, other)]
    return values[0] == values[1] or one.key in _line(attempt, other.key) or other.key in _line(attempt, one.key)


def _line(attempt: Attempt, key: str) -> set[str]:
    """Name a trial and all those that its weights went through."""
    found = {key}
    while key in attempt.search.suggestions and (donor := attempt.search.suggestions[key].donor) is not None:
        key = donor.key
        found.add(key)
    return found

"""A sweep's folder -> the plain values that its report is made of; no server is asked, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayseg import config as configs
from rayseg.errors import CheckpointError, RaysegError
from rayseg.report import findings, levels, rerun, trials
from rayseg.report.trials import Spool, config_of
from rayseg.report.values import Report, Rerun, Searched, Trial
from rayseg.sweep.journal import Story, tell
from rayseg.sweep.judged import Judged
from rayseg.sweep.trial import labels

WINDOW = ("head.kernel_size", "head.dilation")
"""What the heat map is about where a sweep does not say it and has searched both."""


def gather(folder: Path) -> Report:
    """Gather everything.

    Raises:
        CheckpointError: it is no sweep's folder, its journal is damaged, or no trial was evaluated yet.
    """
    story, notes = _story(folder), list[str]()
    sweep, config = Spool(folder), config_of(folder)
    found = trials.ranked(_trials(folder, story, notes))
    if not any(trial.counts for trial in found):
        said = f"{len(found)} started" if found else "none started"
        raise CheckpointError(f"no trial was evaluated yet, {said}", folder, "wait, or go on with it: --resume")
    judged = findings.finals(folder, notes)
    keys = {trial.key for trial in found}
    winner, run = _winner(found, judged)
    base = sweep.tags.get("base_trial", "")
    base = base if base in keys else next(t.key for t in _in_order(found, story) if t.counts)
    return Report(
        name=folder.name,
        about=str(config.get("about", "")),
        over=sweep.status in ("FINISHED", "FAILED") or (not sweep.status and bool(judged)),
        trials=tuple(found),
        waiting=len(set(story.plan.get("keys", ())) - keys),
        searched=_searched(found, config, story),
        rungs=tuple(dict.fromkeys(name for rung in config.get("rungs", ()) for name in rung)),
        picture=_picture(found, story),
        objectives=tuple(story.plan["options"].get("objectives") or config.get("objectives") or ("miou",)),
        winner=winner,
        base=base,
        finals=judged,
        classes=findings.classes(folder, run, base),
        pictures=findings.pictures(folder, run, base, notes),
        rerun=_rerun(findings.run_dir(folder, run), config, notes),
        wall_s=(sweep.times_ms[1] - sweep.times_ms[0]) / 1000 if sweep.times_ms else None,
        facts=_facts(folder, run, sweep, story),
        notes=tuple(notes),
    )


def _story(folder: Path) -> Story:
    fix = "name a sweep's folder, or its name under RAYSEG_HOME/runs"
    if not folder.is_dir():
        raise CheckpointError("no such sweep", folder, fix)
    try:
        story = tell(folder)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"its journal cannot be read ({error!r})", folder, "restore journal.jsonl") from None
    if story is None:
        raise CheckpointError("not a sweep: it has no journal", folder, fix)
    if not isinstance(story.plan.get("options"), dict):
        raise CheckpointError("its journal lacks a field ('options')", folder, "restore journal.jsonl")
    return story


def _trials(folder: Path, story: Story, notes: list[str]) -> list[Trial]:
    try:
        return trials.gather(folder, story, notes)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its journal lacks a field ({error!r})", folder, "restore journal.jsonl") from None


def _in_order(found: Sequence[Trial], story: Story) -> list[Trial]:
    order = {event["key"]: n for n, event in enumerate(story.events) if event["event"] == "suggest"}
    return sorted(found, key=lambda trial: order.get(trial.key, len(order)))


def _winner(found: Sequence[Trial], judged: Judged | None) -> tuple[str, str]:
    """Name the trial at the top, of the finals where there were some, else of the ranking; and its run to the end."""
    keys = {trial.key for trial in found}
    if judged is not None and judged.finalists and {judged.finalists[0].key, judged.finalists[0].run} <= keys:
        return judged.finalists[0].key, judged.finalists[0].run
    return found[0].key, found[0].key


def _searched(found: Sequence[Trial], config: Mapping[str, Any], story: Story) -> tuple[Searched, ...]:
    """List the searched names of which at least two values ran; a finalist's further seeds are no search."""
    space = {**config.get("space", {}), **story.plan["options"].get("search", {})}
    points = [trial.point for trial in found if not trial.further]
    names = list(dict.fromkeys([*space, *(name for point in points for name in point)]))
    named, listed = labels(names), []
    for name in names:
        values = levels.distinct(point[name] for point in points if name in point)
        varied = len(values) > 1 or (values and any(name not in point for point in points))
        dimension = space.get(name, {})
        bounded = dimension.get("kind") in ("uniform", "integer")
        scale = ("log" if dimension.get("log") else "linear") if bounded else None
        if varied:
            listed.append(Searched(name, named[name], scale, tuple(values)))  # type: ignore[arg-type]
    return tuple(listed)


def _picture(found: Sequence[Trial], story: Story) -> tuple[str, str] | None:
    told = tuple(story.plan.get("picture") or WINDOW)
    both = any(told[0] in trial.point and told[1] in trial.point for trial in found)
    return (told[0], told[1]) if both else None


def _rerun(run: Path, config: Mapping[str, Any], notes: list[str]) -> Rerun | None:
    try:
        own = configs.from_dict(config_of(run), run / "tracking" / "config.json")
    except RaysegError as error:
        notes.append(f"no command to rerun the winner: {error}")
        return None
    return rerun.rerun(run, own, recipe=str(config.get("recipe", "")), dataset=str(config.get("dataset", "")))


def _facts(folder: Path, winner: str, sweep: Spool, story: Story) -> dict[str, str]:
    run = findings.run_dir(folder, winner)
    tracked, options = trials.told(folder, "run.json"), story.plan["options"]
    tags = tracked.get("tags", {}) | trials.told(run, "run.json").get("tags", {})
    found = {"folder": str(folder), "sweep": str(story.plan.get("sweep", "")), "preset": str(options.get("preset", ""))}
    found |= findings.facts(sweep, Spool(run), tags)
    if tracked:
        found["in MLflow"] = f"experiment {tracked.get('experiment')}, run {tracked.get('run_name')}"
    return found

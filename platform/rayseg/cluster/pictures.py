"""What the driver draws at a sweep's end: all that a trial alone cannot know.

Of each trial its classes against the base trial's, and the sweep's hardest images where it was over before they were
chosen; of the sweep its curves, and these images as the best and the base trial predict them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg import figures
from rayseg.cluster.attempt import Attempt
from rayseg.cluster.choosing import Best, best_of
from rayseg.data.reader import ShardSet
from rayseg.errors import RaysegError
from rayseg.sweep.finals import is_further
from rayseg.sweep.journal import tell
from rayseg.sweep.table import Row
from rayseg.sweep.trial import Trial
from rayseg.tracking import Tracker
from rayseg.tracking.mlflow_tracker import open_tracker
from rayseg.train import evaluate, hardest, inference, review, sheets, tables

Show = Callable[[str], None]
CURVES = {"miou": "mIoU", "loss": "training loss", "boundary_f1_3px": "boundary F1 (3 px at 1024x2048)"}
CURVES_PLACE, MASKS = "curves.png", "hardest.npz"


class Drawing(NamedTuple):
    """What all pictures of a sweep share; `chosen` is None where no images are shown."""

    attempt: Attempt
    base: Trial
    of_base: Best
    chosen: hardest.Chosen | None
    val_set: ShardSet


def publish(attempt: Attempt, rows: Sequence[Row], tracker: Tracker, show: Show) -> None:
    """Draw and hand over what is missing of every trial, then of the sweep; `rows` are ranked.

    What cannot be drawn is said in a line, and costs nothing else.
    """
    ended = [row.trial for row in rows if row.summary is not None and not row.run]
    folder = attempt.sweeping.folder
    with _said("the sweep", show):
        _curves(folder, tracker)
    if not ended:
        return
    base = base_of(attempt, ended)
    with _said("the trials", show):
        plan = attempt.sweeping.planner.plan
        of_base = best_of(attempt.run_dir(base.key))
        chosen = attempt.choosing().choose()
        drawing = Drawing(attempt, base, of_base, chosen, plan.val_set)
        for trial in ended:
            with _said(f"trial {trial.key}", show):
                _trial(drawing, trial)
        tracker.tag("base_trial", base.key)
        own = [trial for trial in ended if not is_further(attempt.search.suggestions[trial.key])]
        if chosen is not None and own:
            _compare(drawing, own[0], tracker)


def base_of(attempt: Attempt, ended: Sequence[Trial]) -> Trial:
    """Name the trial that the others are compared with: the recipe's own values, else the first of those that ended."""
    own = attempt.sweeping.planner.plan.base.trial(0, {}).key
    return next((trial for trial in ended if trial.key == own), min(ended, key=lambda trial: trial.number))


def _trial(drawing: Drawing, trial: Trial) -> None:
    """Bring a trial's page up to date."""
    run_dir = drawing.attempt.run_dir(trial.key)
    folder, best = run_dir / review.REVIEW, best_of(run_dir)
    names, drawn = drawing.val_set.class_names, list[Path]()
    if trial.key != drawing.base.key:
        tables.write_difference(folder, best.seen, drawing.of_base.seen, names, drawing.base.key)
        drawn += [folder / tables.DIFFERENCE, folder / tables.BARS]
    chosen = drawing.chosen
    if chosen is not None and _shown_of(trial) and sheets.listed(folder) != list(chosen.positions):
        drawn += sheets.draw(folder, drawing.val_set, _masks(drawing, trial, best), _about(trial, best))
    tracker = open_tracker(run_dir, drawing.attempt.job_of(trial).identity, None)
    for path in drawn:
        tracker.artifact(path, review.REVIEW)
    tracker.tag("base_trial", drawing.base.key)
    tracker.close("FINISHED")


def _shown_of(trial: Trial) -> int:
    return trial.config.train.shown_images


def _about(trial: Trial, best: Best) -> str:
    step = int(best.commit.name.removeprefix("step-"))
    return review.about(trial.config.data.val_split, step, best.seen)


def _masks(drawing: Drawing, trial: Trial, best: Best) -> sheets.Masks:
    """Give the chosen images as a trial's best weights predict them; where no one kept that, predict, and keep it."""
    assert drawing.chosen is not None
    positions = drawing.chosen.positions
    if best.seen.shown.keys() >= set(positions):
        return {position: best.seen.shown[position] for position in positions}
    place = best.commit.parents[1] / review.REVIEW / MASKS
    with suppress(OSError, ValueError, KeyError), np.load(place) as kept:
        if str(kept["commit"]) == best.commit.name:
            return {position: kept[str(position)] for position in positions}
    config, model, runtime, precision = inference.load(best.commit, drawing.val_set.num_classes)
    views = config.while_training().test
    masks = dict[int, Any]()
    for position in positions:
        image = drawing.val_set.read(position).image
        masks[position] = evaluate.predict(model, image, runtime.device, precision, views)
    np.savez_compressed(place, commit=best.commit.name, **{str(p): mask for p, mask in masks.items()})
    return masks


def _compare(drawing: Drawing, best: Trial, tracker: Tracker) -> None:
    """Draw the chosen images of the best and of the base trial side by side."""
    named = {f"best {best.key}": best, f"base {drawing.base.key}": drawing.base}
    if best.key == drawing.base.key:
        named = {f"best and base {best.key}": best}
    runs = {}
    for name, trial in named.items():
        of_trial = drawing.of_base if trial == drawing.base else best_of(drawing.attempt.run_dir(trial.key))
        runs[name] = _masks(drawing, trial, of_trial)
    folder = drawing.attempt.sweeping.folder
    title = f"{folder.name}: the hardest images of its first trials"
    sheets.compare(folder / sheets.COMPARED, drawing.val_set, runs, title)
    tracker.artifact(folder / sheets.COMPARED, review.REVIEW)
    tracker.artifact(folder / hardest.PLACE, review.REVIEW)


def _curves(folder: Path, tracker: Tracker) -> None:
    """Draw how mIoU, loss and boundary score went in each trial, from the journal."""
    story = tell(folder)
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in story.events if story else ():
        if event["event"] == "result":
            for figure, name in CURVES.items():
                if figure in event.get("figures", {}):
                    point = (event["step"], event["figures"][figure])
                    series.setdefault(name, {}).setdefault(event["key"], []).append(point)
    if series:
        panels = {name: series[name] for name in CURVES.values() if name in series}
        figures.curve_panels(panels, folder / CURVES_PLACE, title=f"{folder.name}: the trials' evaluations")
        tracker.artifact(folder / CURVES_PLACE, review.REVIEW)


@contextmanager
def _said(whose: str, show: Show) -> Iterator[None]:
    """Say in a line that pictures could not be drawn: no fault of theirs, and no lack of memory, costs a sweep."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, RaysegError) else f"{type(error).__name__}: {error}"
        show(f"warning: the pictures of {whose} are not complete: {said}")

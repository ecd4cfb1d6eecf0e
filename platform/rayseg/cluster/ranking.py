"""The end of a sweep: every trial closed, the ranking drawn and handed to the tracker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rayseg import figures
from rayseg.cluster.launch import Job
from rayseg.errors import RaysegError, TrainingError
from rayseg.sweep import table
from rayseg.sweep.journal import Outcome
from rayseg.sweep.preset import Sweep
from rayseg.tracking import Tracker
from rayseg.tracking.mlflow_tracker import open_tracker
from rayseg.train import attempts, review

Show = Callable[[str], None]


def close(job: Job, outcome: Outcome, show: Show) -> review.Summary | None:
    """Give the trial's summary; one whose process died after it was over is closed here, from its newest commit.

    A failed trial has none, so that a resume runs it again. What a killed process left open at the tracker is closed.
    """
    run_dir = Path(job.run_dir)
    try:
        summary = review.read_summary(run_dir)
        tracker = open_tracker(run_dir, job.identity, None)
        attempts.bury(run_dir, tracker)
        if summary is not None:
            tracker.close("FINISHED")
        elif outcome == "failed" or (summary := review.adopt(run_dir, tracker)) is None:
            tracker.tag("stopped", review.given_up(run_dir) or "failed before its first evaluation")
            tracker.close("FAILED")
        return summary
    except RaysegError as error:
        show(f"warning: trial {run_dir.name} cannot be closed: {error}")
        return None


def publish(
    sweep: Sweep, rows: list[table.Row], folder: Path, tracker: Tracker, *, objectives: Sequence[str], show: Show
) -> None:
    """Save and show the ranking, and the picture of the two values that the sweep is about."""
    table.write_csv(folder / "ranking.csv", rows, objectives)
    show(table.text(rows, objectives))
    tracker.artifact(folder / "ranking.csv")
    best = rows[0].summary if rows else None
    if best is None:
        show("no trial came to an evaluation")
        return
    # Over the updates of all trials: a sweep that goes on and finds a better one writes a further point.
    updates = sum(row.summary.step for row in rows if row.summary)
    tracker.metrics({"best_miou": best.best_miou, "trials": len(rows)}, updates)
    tracker.tag("best_trial", rows[0].trial.key)
    if len(objectives) > 1:
        _draw_front(rows, objectives, folder / "pareto.png", tracker, show)
    laid_out = table.surface(rows, sweep.picture)
    if laid_out is not None:
        picture = folder / "surface.png"
        figures.heat_map(
            laid_out.best,
            [str(v) for v in laid_out.row_values],
            [str(v) for v in laid_out.column_values],
            picture,
            row_name=sweep.picture[0].rsplit(".", 1)[-1],
            column_name=sweep.picture[1].rsplit(".", 1)[-1],
            title=f"{folder.name}: best mIoU",
            value_name="mIoU",
            trials=laid_out.counts,
        )
        tracker.artifact(picture)
        show(table.surface_text(laid_out, sweep.picture))
    show(f"ranking and picture: {folder}")


def _draw_front(rows: list[table.Row], objectives: Sequence[str], picture: Path, tracker: Tracker, show: Show) -> None:
    cost = objectives[1].removeprefix("-")
    points = {
        row.trial.key: (-against, row.summary.best_miou)
        for row in rows
        if row.summary and (against := table.value(row.summary, objectives[1])) is not None
    }
    front = [rows[number].trial.key for number in sorted(table.front(rows, objectives))]
    figures.pareto(points, front, picture, cost_name=cost, title=f"{picture.parent.name}: mIoU against {cost}")
    tracker.artifact(picture)
    show(f"{len(front)} of {len(rows)} trials are on the Pareto front of mIoU against {cost}: {picture}")


def refuse_empty(rows: list[table.Row], folder: Path) -> None:
    """Fail where no trial came to a result.

    Raises:
        TrainingError: all failed.
    """
    if not rows or rows[0].summary is None:
        what = f"all {len(rows)} trials failed" if rows else "no trial was run"
        raise TrainingError(what, folder, "see each trial's log.txt; mend it, then --resume")

"""What a run leaves for its reviewer: summary, tables, pictures and the best weights, drawn once at its end.

Every commit keeps its evaluation as arrays; `close` draws those of the best. So a trial that a scheduler stopped, or
whose process died, is drawn by whoever finds it, without running the model again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from rayseg import figures
from rayseg.config import from_dict
from rayseg.data.reader import open_shards
from rayseg.durable import write_atomically
from rayseg.errors import CheckpointError, UsageError
from rayseg.metrics import ConfusionMatrix
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking import Tracker
from rayseg.train import commit
from rayseg.train.goodput import account

SUMMARY, EVALUATION = "summary.json", commit.EVALUATION


class State(Value):
    """How far a run is; steps count optimizer updates, `seconds` all attempts, `latency_ms` is the best one's."""

    step: int = 0
    miou: float = 0.0
    pixel_accuracy: float = 0.0
    best_miou: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    latency_ms: float = 0.0
    parameters: int = 0
    fingerprint: str = ""

    def after(self, step: int, metrics: dict[str, float], seconds: float) -> Self:
        """Take in an evaluation at `step`, `seconds` after the last one."""
        better = metrics["miou"] > self.best_miou
        return self.model_copy(
            update={
                "step": step,
                "miou": metrics["miou"],
                "pixel_accuracy": metrics["pixel_accuracy"],
                "best_miou": metrics["miou"] if better else self.best_miou,
                "best_step": step if better else self.best_step,
                "seconds": self.seconds + seconds,
                "latency_ms": metrics["latency_ms"] if better else self.latency_ms,
            }
        )

    def at(self, step: int, seconds: float) -> Self:
        """Move on to `step` without an evaluation."""
        return self.model_copy(update={"step": step, "seconds": self.seconds + seconds})

    def shown(self) -> dict[str, float]:
        """Give what the line of progress shows."""
        return {"mIoU": self.miou, "best": self.best_miou} if self.best_step else {}


class Summary(State):
    """What a run came to; `summary.json` in its directory. A run that has one is over."""

    status: str
    samples_per_s: float
    goodput: dict[str, float] = {}


def summarise(state: State, *, steps: int, batch: int) -> Summary:
    """Sum a run up: `finished` where it did all its `steps`, else `stopped`."""
    pace = state.step * batch / max(state.seconds, 1e-9)
    status = "finished" if state.step == steps else "stopped"
    return Summary(status=status, samples_per_s=pace, **state.model_dump())


def adopt(run_dir: Path, tracker: Tracker) -> Summary | None:
    """Close a run whose process is gone, from its newest commit; None where it never came to one."""
    found = commit.newest(run_dir)
    if found is None or not found.state["progress"]["best_step"]:
        return None
    config = from_dict(found.state["config"], found.path)
    summary = summarise(State(**found.state["progress"]), steps=config.train.steps, batch=config.train.batch)
    publish(run_dir, tracker)
    return close(run_dir, summary, tracker)


def read_summary(run_dir: Path) -> Summary | None:
    """Read the summary of a run that is over; None while it is not."""
    path = run_dir / SUMMARY
    try:
        return parse(Summary, json.loads(path.read_text()), path)
    except FileNotFoundError:
        return None
    except (ValueError, UsageError) as error:
        raise CheckpointError(f"not a summary: {error}", path, "remove it; the run closes itself again") from None


def close(run_dir: Path, summary: Summary, tracker: Tracker) -> Summary:
    """Sum up a published run: its last figures for the tracker, and the summary, with where its time went, last."""
    summary = summary.model_copy(update={"goodput": account(run_dir).plain()})
    tracker.metrics({"best_miou": summary.best_miou, "best_step": summary.best_step}, summary.step)
    tracker.tag("stopped", summary.status)
    commit.prune(run_dir, keep_last=1, best=summary.best_step)
    write_atomically(run_dir / SUMMARY, json.dumps(to_dict(summary), indent=1))
    tracker.close("FINISHED")
    return summary


def publish(run_dir: Path, tracker: Tracker) -> None:
    """Draw and hand over: per-class table, confusion matrix, predictions beside the truth, the best weights."""
    best = best_commit(run_dir)
    config = from_dict(best.state["config"], best.path)
    shards = open_shards(config.data.shards, config.data.val_split, config.data.remote)
    folder = run_dir / "review"
    folder.mkdir(exist_ok=True)
    arrays = np.load(best.path / EVALUATION)
    confusion = ConfusionMatrix(shards.num_classes, shards.ignore_index)
    confusion.counts[...] = arrays["counts"]
    _per_class_table(folder / "per_class.csv", confusion, shards.class_names)
    where = f"{config.data.val_split}, step {best.step}, mIoU {confusion.miou():.3f}"
    figures.confusion_matrix(confusion.counts, shards.class_names, folder / "confusion_matrix.png", title=where)
    drawn = ["per_class.csv", "confusion_matrix.png"]
    if _draw_predictions(folder / "predictions.png", shards, arrays, where):
        drawn.append("predictions.png")
    for name in drawn:
        tracker.artifact(folder / name)
    for path in sorted(best.path.iterdir()):
        if path.name in ("model.safetensors", "ema.safetensors", "state.json"):
            tracker.artifact(path, "best")


def best_commit(run_dir: Path, warn: Callable[[str], None] = print) -> commit.Commit:
    """Find the commit of a run's best evaluation; where it is damaged, one line says so and the next best is taken.

    Raises:
        CheckpointError: the run has not been evaluated yet, or no commit with an evaluation is whole.
    """
    newest = commit.newest(run_dir, warn)
    step = newest.state["progress"]["best_step"] if newest else 0
    if not step:
        raise CheckpointError("no evaluation yet", run_dir, "name a run directory, trained to its first evaluation")
    found = [each for path in commit.commits(run_dir) if (each := _judged(path, step, warn)) is not None]
    if not found:
        raise CheckpointError("no commit with an evaluation is whole", run_dir, "train it anew, in another directory")
    return max(found, key=lambda each: (each.step == step, each.state["progress"]["miou"]))


def _judged(path: Path, best: int, warn: Callable[[str], None]) -> commit.Commit | None:
    if not (path / EVALUATION).exists():
        return None
    try:
        return commit.read(path)
    except CheckpointError as error:
        if path.name == commit.path_of(path.parents[1], best).name:
            warn(f"warning: the best commit is damaged, the next best is taken: {error}")
        return None


def _per_class_table(path: Path, confusion: ConfusionMatrix, names: tuple[str, ...]) -> None:
    """Write a row a class; what is not defined (a class that never occurs) stays empty."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "iou", "recall", "pixels"])
        columns = zip(names, confusion.iou(), confusion.recall(), confusion.counts.sum(1), strict=True)
        for name, iou, recall, pixels in columns:
            table.writerow([name, *("" if np.isnan(v) else f"{v:.4f}" for v in (iou, recall)), int(pixels)])


def _draw_predictions(path: Path, shards: Any, arrays: Any, title: str) -> bool:
    """Draw the samples whose masks were kept; False where none was."""
    positions = sorted(int(name.removeprefix("mask_")) for name in arrays.files if name.startswith("mask_"))
    samples = [shards.read(position) for position in positions]
    if samples:
        figures.predictions(
            [s.image for s in samples],
            [s.mask for s in samples],
            [arrays[f"mask_{position}"] for position in positions],
            shards.card,
            path,
            titles=[s.key for s in samples],
            title=title,
        )
    return bool(samples)

"""What a run leaves for its reviewer: summary, tables, pictures and the best weights, drawn once at its end.

Every commit keeps its evaluation as arrays; `publish` draws those of the best. So a trial that a scheduler stopped, or
whose process died, is drawn by whoever finds it, without running the model again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from rayseg.config import from_dict
from rayseg.data.reader import open_shards
from rayseg.durable import write_atomically
from rayseg.errors import CheckpointError, UsageError
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking import Tracker
from rayseg.train import charts, commit, sheets, tables
from rayseg.train.evaluation import Evaluation, from_bytes
from rayseg.train.goodput import account

SUMMARY, EVALUATION, GIVEN_UP, REVIEW = "summary.json", commit.EVALUATION, "given_up.txt", "review"


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


def why(run_dir: Path, summary: Summary) -> str:
    """Say in words why a run is over, for the tag `stopped`."""
    if summary.status == "finished":
        return f"finished: {summary.step} steps"
    return given_up(run_dir) or f"stopped at step {summary.step}"


def give_up(run_dir: Path, reason: str) -> None:
    """Write down why a run is given up; whoever gives it up does so before the run hears of it."""
    if given_up(run_dir) != reason:
        with suppress(OSError):  # a full disk is said by who needs it
            write_atomically(run_dir / GIVEN_UP, reason)


def given_up(run_dir: Path) -> str:
    """Read why a run was given up; nothing where it was not."""
    with suppress(OSError):
        return (run_dir / GIVEN_UP).read_text().strip()
    return ""


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
    tracker.tag("stopped", why(run_dir, summary))
    commit.prune(run_dir, keep_last=1, best=summary.best_step)
    write_atomically(run_dir / SUMMARY, json.dumps(to_dict(summary), indent=1))
    tracker.close("FINISHED")
    return summary


def publish(run_dir: Path, tracker: Tracker) -> None:
    """Draw and hand over: per-class table, confusion matrix, the hardest images, the best weights."""
    best = best_commit(run_dir)
    config = from_dict(best.state["config"], best.path)
    shards = open_shards(config.data.shards, config.data.val_split, config.data.remote)
    seen = from_bytes(best.path / EVALUATION)
    folder, where = run_dir / REVIEW, about(config.data.val_split, best.step, seen)
    folder.mkdir(exist_ok=True)
    tables.write(folder / tables.PER_CLASS, seen, shards.class_names)
    charts.confusion_matrix(seen.confusion.counts, shards.class_names, folder / "confusion_matrix.png", title=where)
    drawn = [folder / tables.PER_CLASS, folder / "confusion_matrix.png"]
    if seen.shown:
        drawn += sheets.draw(folder, shards, seen.shown, where)
    for path in drawn:
        tracker.artifact(path, REVIEW)
    for path in sorted(best.path.iterdir()):
        if path.name in ("model.safetensors", "ema.safetensors", "state.json"):
            tracker.artifact(path, "best")


def about(split: str, step: int, seen: Evaluation) -> str:
    """Say what a picture is of."""
    return f"{split}, step {step}, mIoU {seen.confusion.miou():.3f}"


def best_commit(run_dir: Path, warn: Callable[[str], None] = print) -> commit.Commit:
    """Find the commit of a run's best evaluation; where it is damaged, one line says so and the next best is taken.

    Raises:
        CheckpointError: the run has not been evaluated yet, or no commit with an evaluation is whole.
    """
    newest = commit.newest(run_dir, warn)
    step = newest.state["progress"]["best_step"] if newest else 0
    if not step:
        raise CheckpointError("no evaluation yet", run_dir, "name a run directory, trained to its first evaluation")
    best = commit.path_of(run_dir, step)
    if newest is not None and newest.path == best and (best / EVALUATION).exists():
        return newest  # its bytes are checked
    if (whole := _judged(best, step, warn)) is not None:
        return whole
    others = [path for path in commit.commits(run_dir) if path != best]
    found = [each for path in others if (each := _judged(path, step, warn)) is not None]
    if not found:
        raise CheckpointError("no commit with an evaluation is whole", run_dir, "train it anew, in another directory")
    return max(found, key=lambda each: each.state["progress"]["miou"])


def _judged(path: Path, best: int, warn: Callable[[str], None]) -> commit.Commit | None:
    if not (path / EVALUATION).exists():
        return None
    try:
        return commit.read(path)
    except CheckpointError as error:
        if path.name == commit.path_of(path.parents[1], best).name:
            warn(f"warning: the best commit is damaged, the next best is taken: {error}")
        return None

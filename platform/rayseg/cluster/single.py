"""One run: in this process on one worker, through Ray Train on several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rayseg import config as configs
from rayseg import losses, segmenter
from rayseg import recipe as recipes
from rayseg.cluster import home
from rayseg.cluster.launch import FAILED, Job
from rayseg.cluster.runtime import PauseFile
from rayseg.cluster.watch import room_for
from rayseg.config import RunConfig
from rayseg.data import open_shards
from rayseg.schema import to_dict
from rayseg.tracking.mlflow_tracker import RunIdentity, identity_for, open_tracker
from rayseg.train import review
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime, holding

Show = Callable[[str], None]
Start = Callable[[LocalRuntime | PauseFile], None]
"""Is given what to set `wanted = "pause"` on when the user interrupts."""


def train_one(
    *,
    recipe: str,
    dataset: str | None,
    shards: str | None,
    run_dir: Path | None,
    settings: Mapping[str, Any],
    show: Show,
    on_start: Start,
) -> review.Summary | None:
    """Train one run from a recipe, or go on with the one in `run_dir`; None where it was paused."""
    base = recipes.load(recipe)
    where = home.shards_of(dataset or base.dataset, shards, show)
    config = configs.from_dict(configs.merged(base.run, {"data.shards": where, **settings}), recipe)
    shown = open_shards(config.data.shards, config.data.val_split, config.data.remote).card
    card, num_classes = shown.name, shown.num_classes
    home.check_card(dataset, card)
    # A model or a loss that cannot be built is refused before the run has a folder.
    model = segmenter.skeleton(config.model(num_classes))
    losses.for_model(config.loss, model, ignore_index=shown.ignore_index, num_classes=num_classes)
    name = f"{config.head.name}-{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = (run_dir or home.run_path(name)).absolute()
    experiment = f"{config.head.name}-{card}"
    identity = identity_for(folder, folder.name, experiment, {"rayseg.kind": "run", "recipe": recipe})
    show(f"run {folder}")
    (folder / FAILED).unlink(missing_ok=True)
    train = _on_workers if config.train.workers > 1 else _here
    summary = train(config, folder, identity, show, on_start)
    if summary is None:
        show(f"go on with the same command and --run {folder}")
    else:
        show(
            f"{summary.status} at step {summary.step}: mIoU {summary.miou:.4f}, best {summary.best_miou:.4f} "
            f"at step {summary.best_step}, {summary.samples_per_s:.1f} img/s; tables and pictures: {folder / 'review'}"
        )
    return summary


def _here(config: RunConfig, folder: Path, identity: RunIdentity, show: Show, on_start: Start) -> review.Summary | None:
    runtime = LocalRuntime(folder)
    on_start(runtime)
    with holding(runtime):  # before the tracker writes into it
        pass
    tracker = open_tracker(folder, identity, home.tracking_uri())
    try:
        summary = fit(config, runtime, tracker, show=show)
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED" if summary else "KILLED")
    return summary


def _on_workers(
    config: RunConfig, folder: Path, identity: RunIdentity, show: Show, on_start: Start
) -> review.Summary | None:
    from rayseg.cluster.connect import cluster_resources, ray_session

    with ray_session(dashboard=True):
        from rayseg.cluster.slots import train_on_workers  # Ray reads its settings when it is imported

        resources = room_for(config, cluster_resources(), 1)
        show(f"{resources.workers} workers on {'GPUs' if resources.gpus_per_worker else 'CPUs'}")
        job = Job(
            config=to_dict(config),
            run_dir=str(folder),
            identity=identity,
            tracking_uri=home.tracking_uri(),
            threads=resources.cpus_per_worker,
            pause=str(folder / "pause"),
        )
        on_start(PauseFile(folder / "pause"))
        with _following(folder / "log.txt", show):
            train_on_workers(job, resources)
    return review.read_summary(folder)


@contextmanager
def _following(log: Path, show: Show) -> Iterator[None]:
    """Show what rank 0 adds to its log while this runs."""
    done = threading.Event()
    start = log.stat().st_size if log.exists() else 0

    def follow() -> None:
        at = start
        while True:
            last = done.wait(0.3)
            if log.exists():
                with log.open("rb") as file:
                    file.seek(at)
                    lines = file.read().split(b"\n")
                at += sum(len(line) + 1 for line in lines[:-1])
                for line in (each for each in lines[:-1] if not each.startswith(b"error: ")):
                    show(line.decode(errors="replace"))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

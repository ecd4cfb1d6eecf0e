"""Measure what commits cost training: written beside it against written in its way, at the same interval.

All forms train in turn in each round, the same updates of the same model, so that a busy neighbour slows a whole round
and not one form; a share is the median over the rounds.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from measure import MIB, arguments, publish
from rayseg import config as configs
from rayseg import segmenter
from rayseg.data.loader import Batch
from rayseg.losses import for_model
from rayseg.train import commit, update
from rayseg.train.goodput import Goodput
from rayseg.train.review import State
from rayseg.train.runtime import LocalRuntime
from rayseg.train.update import Updater
from rayseg.train.watchdog import Watchdog
from rayseg.train.writer import Commits

CLASSES, GOAL = 11, 0.035
ABOUT = """A commit holds weights and momentum, each file synced and hashed. *Synchronous* waits for it; *asynchronous*
copies the tensors, goes on, and asks after each update whether it is whole, as `fit` does; both make one commit an
interval. *Blocked* is the time that the loop itself spent on commits, over its wall time: what commits cost where a
core is free for the writer's thread. *CPU* is all CPU time of the interval, the writer's too, over that of the same
updates without a commit: what they cost at most, where no core is free."""


class Setting(NamedTuple):
    """A model, and how many updates lie between two commits."""

    name: str
    backbone: str
    crop_px: int
    updates: int


def made(setting: Setting, runtime: LocalRuntime) -> tuple[Updater, Batch]:
    """Build a model, and a batch that it is trained on again and again."""
    plain = {
        "data": {"shards": "none"},
        "backbone": {"name": setting.backbone, "output_stride": 16},
        "head": {"name": "gald"},
        "augment": {"crop_px": [setting.crop_px, setting.crop_px]},
        "train": {"steps": 10**6, "batch": 8, "eval_every": 1, "precision": "fp32"},
        "optim": {"lr": 1e-4},
    }
    config = configs.from_dict(plain)
    torch.manual_seed(0)
    model = segmenter.build(config.model(CLASSES)).to(memory_format=torch.channels_last)
    criterion = for_model(config.loss, model, ignore_index=255, num_classes=CLASSES)
    rng = np.random.default_rng(0)
    sides = (8, setting.crop_px, setting.crop_px)
    images, masks = rng.integers(0, 256, (*sides, 3), np.uint8), rng.integers(0, CLASSES, sides, np.uint8)
    batch = Batch(images, masks, tuple(map(str, range(8))), 0, {})
    return update.make(model, criterion, config, runtime, torch.float32), batch


class Spent(NamedTuple):
    """Wall and CPU seconds of an interval, and the wall seconds that the loop spent on commits."""

    wall: float
    cpu: float
    commits: float


def interval(train: Callable[[], object], updates: int, commits: Commits, begin: Callable[[], None]) -> float:
    """Time one interval: a commit, then updates; gives its wall seconds, without the wait for a commit at its end."""
    start = time.perf_counter()
    begin()
    for _ in range(updates):
        train()
        commits.poll()
    return time.perf_counter() - start


def measured(setting: Setting, rounds: int) -> str:
    """Measure one setting, as a line of the table."""
    taken: dict[str, list[Spent]] = {"none": [], "synchronous": [], "asynchronous": []}
    with tempfile.TemporaryDirectory() as folder:
        runtime = LocalRuntime(Path(folder), "cpu")
        updater, batch = made(setting, runtime)
        spent = Goodput(runtime.run_dir, write=False)
        spent.enter("training")
        step = 0
        with Commits(runtime, spent, Watchdog(runtime, math.inf, print)) as commits:

            def begin() -> None:
                nonlocal step
                step += 1
                commits.begin(State(step=step), updater.tensors(), {})

            def wait() -> None:
                begin()
                commits.finish()

            for turn in range(rounds + 1):
                for form, start in {"none": lambda: None, "synchronous": wait, "asynchronous": begin}.items():
                    before, cpu = spent.seconds("commits"), time.process_time()
                    wall = interval(lambda: updater(batch, 1), setting.updates, commits, start)
                    loop = spent.seconds("commits") - before
                    commits.finish()
                    if turn:  # the first warms up
                        taken[form].append(Spent(wall, time.process_time() - cpu, loop))
        size = sum(path.stat().st_size for path in commit.newest(runtime.run_dir).path.iterdir())  # type: ignore[union-attr]
    plain = taken.pop("none")
    line = [setting.name, f"{size / MIB:.0f}", f"{statistics.median(each.wall for each in plain):.1f}"]
    for own in taken.values():
        cpu = statistics.median(one.cpu / other.cpu for one, other in zip(own, plain, strict=True)) - 1
        line += [f"**{statistics.median(one.commits / one.wall for one in own):.2%}**", f"{cpu:+.1%}"]
    return "| " + " | ".join(line) + " |"


def main() -> None:
    """Measure everything."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    settings = [
        Setting("resnet10t, 96 px, every 10 updates", "resnet10t", 96, 10),
        Setting("resnet10t, 96 px, every 40 updates", "resnet10t", 96, 40),
        Setting("resnet50, 96 px, every 10 updates", "resnet50", 96, 10),
    ]
    lines = [
        "| setting | MiB a commit | s between commits | synchronous: blocked | CPU | asynchronous: blocked | CPU |",
        "|---|---|---|---|---|---|---|",
        *(measured(setting, 2 if options.quick else 3) for setting in settings[: 1 if options.quick else None]),
    ]
    goal = f"Goal: blocked at most {GOAL:.1%}. Commits in training are minutes apart; these intervals are seconds."
    publish("commits", "Commits beside training", [ABOUT, "\n".join(lines), goal], write=options.write)


if __name__ == "__main__":
    main()

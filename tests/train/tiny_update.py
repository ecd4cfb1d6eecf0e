"""Updates without data, evaluation or cluster: an updater on a tiny model, random batches, what it leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_run import TINY

from rayseg import config as configs
from rayseg import segmenter
from rayseg.config import RunConfig
from rayseg.data.loader import Batch
from rayseg.losses import for_model
from rayseg.train.runtime import LocalRuntime
from rayseg.train.step import choose_precision
from rayseg.train.update import Updater, make

CLASSES, IGNORED, STEPS = 5, 255, 8
DROPLESS = {"head__name": "fcn", "head__dropout": 0.0, "loss__aux_weight": 0.0}
"""A model that draws nothing: ranks draw each for itself."""
GROUP = DROPLESS | {"head__norm": "group", "train__freeze_norm": True}
"""Without batch statistics too: a sample is computed as it is, whatever stands beside it."""


def config(**settings: Any) -> RunConfig:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return configs.from_dict(configs.merged(TINY, {"data.shards": "none", "train.steps": STEPS, **dotted}))


def updater(run: RunConfig, *, rank: int = 0, world: int = 1, run_dir: Path = Path()) -> Updater:
    """Make the updater of a run, as `fit` does."""
    runtime = LocalRuntime(run_dir, "cpu")
    runtime.rank, runtime.world = rank, world
    torch.manual_seed(run.seed)
    model = segmenter.build(run.model(CLASSES))
    if run.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion = for_model(run.loss, model, ignore_index=IGNORED, num_classes=CLASSES)
    return make(model, criterion, run, runtime, choose_precision(run.train.precision, runtime.device))


def batch(run: RunConfig, step: int, *, rank: int = 0, world: int = 1) -> Batch:
    """Draw a rank's part of a batch; each sample has as many ignored pixels as chance gives it."""
    rng = np.random.default_rng(step)
    shape = (run.train.batch, *run.augment.crop_px)
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    masks = (images[..., 0] // (256 // CLASSES + 1)).astype(np.uint8)
    masks[rng.random(shape) < rng.random((len(masks), 1, 1)) ** 2] = IGNORED
    mine = slice(rank, None, world)
    return Batch(images[mine].copy(), masks[mine].copy(), ("",) * len(masks[mine]), step, {})


def updated(of: Updater, steps: int, *, start: int = 0) -> list[dict[str, float]]:
    """Do updates from `start` on, as the loop does, and give their losses."""
    rank, world = of.runtime.rank, of.runtime.world
    found = []
    for step in range(start + 1, start + steps + 1):
        of.set_rate(step - 1)
        losses = of(batch(of.config, step, rank=rank, world=world), step)
        found.append({name: float(value) for name, value in losses.items()})
    return found


def digest(of: Updater) -> str:
    """Hash every byte that a commit would keep."""
    found = hashlib.sha256()
    for group, tensors in sorted(of.tensors().items()):
        for name in sorted(tensors):
            found.update(f"{group} {name}".encode() + tensors[name].detach().numpy().tobytes())
    return found.hexdigest()


def weights(of: Updater) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.parts.model.state_dict().items()}

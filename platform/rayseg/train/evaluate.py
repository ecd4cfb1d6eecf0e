"""Evaluation, one image at a time at its own size; ranks share the split and add up their sums.

What the model sees of an image, `config.test` says (`train.views`). A run evaluates itself with one view of each image
(`RunConfig.while_training`), also at its end, so that a curve's points and the choice of the best are alike; its whole
test settings are for `rayseg evaluate`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from rayseg.config import RunConfig, ViewConfig
from rayseg.data.plan import shard_for_rank
from rayseg.data.reader import Sample, ShardSet
from rayseg.errors import DataError, TrainingError
from rayseg.train import hardest, views
from rayseg.train.evaluation import Evaluation as Evaluation
from rayseg.train.evaluation import from_bytes as from_bytes
from rayseg.train.evaluation import to_bytes as to_bytes
from rayseg.train.runtime import Runtime, share_buffers
from rayseg.train.step import to_device
from rayseg.train.tally import Tally

TIMED = 16
"""So many images are timed; while they are, nothing else computes on this rank."""


def evaluate(
    model: nn.Module,
    shards: ShardSet,
    runtime: Runtime,
    *,
    config: RunConfig,
    precision: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict a split's images (the first `data.val_samples` where that is set) and count. Every rank calls it.

    The images shown are those that the run's sweep chose, or before that, and of a run alone, its own hardest ones.

    Every rank takes over rank 0's batch statistics first: those are what is committed.

    Raises:
        DataError: the split is empty, or has no labelled pixel.
        TrainingError: the model's logits are not finite on some image.
    """
    total = min(config.data.val_samples or len(shards), len(shards))
    if not total:
        raise DataError("the split is empty", shards.folder, "evaluate a split that has samples")
    device, took_s = runtime.device, list[float]()
    tally = Tally(shards, total, boundary=config.train.boundary_scores, threads=config.data.loader_threads)
    kept = _kept(config, runtime, shards)

    def masked(sample: Sample) -> np.ndarray:
        with explained(sample.key, shards.folder):
            return predict(model, sample.image, device, precision, config.test)

    with judging(model):
        with tally:
            for position in shard_for_rank(total, runtime.rank, runtime.world):
                sample = shards.read(position)
                timed = len(took_s) < TIMED
                began = time.perf_counter()
                mask = masked(sample)
                took_s += [time.perf_counter() - began] if timed else []
                tally.note(position, mask, sample.mask, beside=not timed and device.type != "cpu")
                kept.note(position, mask, tally.images)
                if progress is not None:
                    progress(position + 1, total)
        tally.over_ranks(device)
        if not tally.confusion.counts.any():
            raise DataError("no pixel of the split is labelled", shards.folder, "evaluate a split that has labels")
        chosen = kept.positions(tally.images)  # of these, what another rank predicted is predicted once more
        shown = {i: kept.masks[i] if i in kept.masks else masked(shards.read(i)) for i in chosen}
    latency_ms = 1e3 * statistics.median(took_s) if took_s else 0.0
    return Evaluation(tally.confusion, shown, latency_ms, tally.images, tally.boundary, shards.class_names)


def _kept(config: RunConfig, runtime: Runtime, shards: ShardSet) -> hardest.Kept:
    count = config.train.shown_images if runtime.rank == 0 else 0
    chosen = hardest.of_sweep(runtime.run_dir, shards) if count else None
    return hardest.Kept(count, chosen.positions if chosen else None)


@torch.inference_mode()
def predict(
    model: nn.Module, image: np.ndarray, device: torch.device, precision: torch.dtype, config: ViewConfig
) -> np.ndarray:
    """Predict the mask (H,W) uint8 of one image (H,W,3) uint8 with a model in evaluation mode.

    Raises:
        FloatingPointError: a logit is NaN, or the highest of a pixel infinite.
    """
    x_BCHW = to_device(image[None], device, channels_last=True)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        scores_BCHW = views.scores(model, x_BCHW, config)
    best_HW, mask_HW = scores_BCHW[0].max(0)  # a NaN is above every number
    if not bool(best_HW.isfinite().all()):
        raise FloatingPointError("the logits are not finite")
    return mask_HW.to(torch.uint8).cpu().numpy()


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode; afterwards each module is as it was, for batch norm may be frozen.

    Every rank enters it, and takes over rank 0's batch statistics.
    """
    share_buffers(model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def explained(key: str, where: object) -> Iterator[None]:
    """Say of which image the logits were not finite.

    Raises:
        TrainingError: they were not.
    """
    try:
        yield
    except FloatingPointError as error:
        fix = "lower optim.lr, or set train.precision=fp32"
        raise TrainingError(f"{error} on image '{key}'", where, fix) from None

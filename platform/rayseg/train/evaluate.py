"""Evaluation, one image at a time at its own size; ranks share the split and add up their counts.

What the model sees of an image, `config.test` says (`train.views`). A run evaluates itself with one view of each image
(`RunConfig.while_training`), also at its end, so that a curve's points and the choice of the best are alike; its whole
test settings are for `rayseg evaluate`.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from rayseg.config import RunConfig, ViewConfig
from rayseg.data.plan import shard_for_rank
from rayseg.data.reader import ShardSet
from rayseg.errors import DataError
from rayseg.metrics import ConfusionMatrix
from rayseg.train import views
from rayseg.train.runtime import Runtime, share_buffers, sum_over_ranks
from rayseg.train.step import to_device


class Evaluation(NamedTuple):
    """What one pass over a split gave; `shown` holds predicted masks by sample position, on rank 0.

    `latency_ms` is this rank's median time from an image to its mask, on the threads or the GPU that it has here.
    """

    confusion: ConfusionMatrix
    shown: dict[int, np.ndarray]
    latency_ms: float

    def metrics(self, class_names: Sequence[str]) -> dict[str, float]:
        """Name the figures: `miou`, `pixel_accuracy`, `mean_accuracy`, `latency_ms`, `iou/<class>` where defined."""
        per_class = {
            f"iou/{name}": float(v)
            for name, v in zip(class_names, self.confusion.iou(), strict=True)
            if not np.isnan(v)
        }
        return {
            "miou": float(self.confusion.miou()),
            "pixel_accuracy": float(self.confusion.pixel_accuracy()),
            "mean_accuracy": float(self.confusion.mean_accuracy()),
            "latency_ms": self.latency_ms,
            **per_class,
        }


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

    The images shown are the same ones in every run over the same split: spread evenly over it.

    Every rank takes over rank 0's batch statistics first: those are what is committed.

    Raises:
        DataError: the split is empty, or has no labelled pixel.
    """
    total = min(config.data.val_samples or len(shards), len(shards))
    if not total:
        raise DataError("the split is empty", shards.folder, "evaluate a split that has samples")
    confusion = ConfusionMatrix(shards.num_classes, shards.ignore_index)
    share_buffers(model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    took_s = []
    for position in shard_for_rank(total, runtime.rank, runtime.world):
        sample = shards.read(position)
        began = time.perf_counter()
        mask = predict(model, sample.image, runtime.device, precision, config.test)
        took_s.append(time.perf_counter() - began)
        confusion.update(mask, sample.mask)
        if progress is not None:
            progress(position + 1, total)
    counts = sum_over_ranks(torch.from_numpy(confusion.counts).to(runtime.device))
    confusion.counts[...] = counts.cpu().numpy()
    if not confusion.counts.any():
        raise DataError("no pixel of the split is labelled", shards.folder, "evaluate a split that has labels")
    mine = shown_positions(total, config.train.shown_images) if runtime.rank == 0 else []
    kept = {i: predict(model, shards.read(i).image, runtime.device, precision, config.test) for i in mine}
    for module in training:  # each as it was: batch norm may be frozen
        module.training = True
    return Evaluation(confusion, kept, 1e3 * statistics.median(took_s) if took_s else 0.0)


def shown_positions(total: int, shown: int) -> list[int]:
    """Choose `shown` positions spread evenly over `total` samples."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(shown, total))}) if shown else []


@torch.inference_mode()
def predict(
    model: nn.Module, image: np.ndarray, device: torch.device, precision: torch.dtype, config: ViewConfig
) -> np.ndarray:
    """Predict the mask (H,W) uint8 of one image (H,W,3) uint8 with a model in evaluation mode."""
    x_BCHW = to_device(image[None], device, channels_last=True)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        scores_BCHW = views.scores(model, x_BCHW, config)
    return scores_BCHW[0].argmax(0).to(torch.uint8).cpu().numpy()


def to_bytes(evaluation: Evaluation) -> bytes:
    """Give counts and shown masks as an .npz file, to be kept in the commit that they belong to."""
    arrays: dict[str, Any] = {f"mask_{position}": mask for position, mask in evaluation.shown.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=evaluation.confusion.counts, **arrays)
    return buffer.getvalue()

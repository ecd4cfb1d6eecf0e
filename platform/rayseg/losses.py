"""Losses: cross-entropy with ignored pixels, auxiliary outputs, OHEM; over any number of ranks that of the whole batch.

DistributedDataParallel averages gradients over ranks. A mean over each rank's own pixels would then weigh a pixel by
how many of its rank's are ignored, and OHEM's minimum would be taken per rank. So while gradients are recorded and
several ranks train, sums and counts are those of the global batch: the averaged gradient is the one that a single rank
computes on the concatenated batch, and every rank returns the same value (a NaN anywhere is seen everywhere).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rayseg.errors import DataError, UsageError
from rayseg.schema import Value


class Config(Value):
    """Weights and OHEM (Shrivastava et al., https://arxiv.org/abs/1604.03540, in the pixelwise form of GALD and OCNet).

    With `ohem` the main output learns from pixels whose true class has a probability of at most `ohem_threshold`, and
    from at least the `ohem_min_kept` hardest pixels of the global batch.
    """

    aux_weight: Annotated[float, Field(ge=0)] = 0.4
    ohem: bool = False
    ohem_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    ohem_min_kept: Annotated[int, Field(ge=1)] = 100_000


class SegmentationLoss(nn.Module):
    """Sum of `"main"`, `aux_weight` times `"aux"`, and the head's own outputs with the weights it names."""

    def __init__(self, config: Config, *, ignore_index: int, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config, self.ignore_index = config, ignore_index
        self.weights = {"main": 1.0, "aux": config.aux_weight, **weights}

    def forward(self, outputs: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Compute `"loss"`, and each output's own loss, unweighted and detached; all scalars in float32.

        Ignored pixels never count; where all are ignored, the loss and its gradients are 0. While gradients are
        recorded, every rank calls it together.

        Args:
            outputs: logits (B, C, H, W) by name, `"main"` among them.
            target: (B, H, W) int64, classes or `ignore_index`.

        Raises:
            UsageError: shapes, types or names do not fit.
            DataError: a label is neither a class nor `ignore_index` (seen on the CPU; CUDA asserts by itself).
        """
        self._check(outputs, target)
        parts = {name: self._part(name, logits, target) for name, logits in outputs.items()}
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": total} | {name: part.detach() for name, part in parts.items()}

    def _part(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = functional.cross_entropy(exact, target, ignore_index=self.ignore_index, reduction="none")
        kept = target != self.ignore_index
        if name == "main" and self.config.ohem:
            kept = hard_pixels(losses.detach(), kept, self.config)
        return global_mean(losses * kept, kept.sum())

    def _check(self, outputs: Mapping[str, Tensor], target: Tensor) -> None:
        if unknown := [name for name in outputs if name not in self.weights]:
            fix = "give its weight in the head's loss_weights()"
            raise UsageError(f"output '{unknown[0]}' has no weight", "SegmentationLoss", fix)
        if "main" not in outputs:
            raise UsageError("the outputs have no 'main'", "SegmentationLoss", "name the head's main logits 'main'")
        if target.dtype != torch.int64:
            raise UsageError(f"target is {target.dtype}", "SegmentationLoss", "convert it with .long()")
        batch, num_classes, *size = outputs["main"].shape
        for name, logits in outputs.items():
            if logits.shape != (batch, num_classes, *size) or target.shape != (batch, *size):
                shapes = f"{name} is {tuple(logits.shape)}, target is {tuple(target.shape)}"
                raise UsageError(shapes, "SegmentationLoss", "logits are (B, C, H, W), target is (B, H, W)")
        if target.device.type == "cpu":  # on a GPU it would wait for the queue in every step
            _check_labels(target, num_classes, self.ignore_index)


def _check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = target[((target < 0) | (target >= num_classes)) & (target != ignore_index)]
    if wrong.numel():
        fix = f"labels are 0..{num_classes - 1}, or {ignore_index} to ignore: compare the card with num_classes"
        raise DataError(f"label {int(wrong[0])} is no class", "mask", fix)


def hard_pixels(losses: Tensor, valid: Tensor, config: Config) -> Tensor:
    """Choose the pixels that OHEM keeps, among the valid ones: a mask like `losses` (B, H, W).

    Cross-entropy falls as the true class's probability rises, so `p <= max(threshold, k-th smallest p)` reads
    `loss >= min(-log threshold, k-th largest loss)`: exact, with at least k pixels (ties included) where there are k.
    Pixels that are not valid have loss 0, so they are never among the k hardest before a valid one.
    """
    limit = torch.tensor(-math.log(config.ohem_threshold), dtype=losses.dtype, device=losses.device)
    enough = _sum_over_ranks((losses >= limit).sum()) >= config.ohem_min_kept
    if not bool(enough):  # the same on every rank
        limit = torch.minimum(limit, kth_largest(losses.flatten(), config.ohem_min_kept))
    return valid & (losses >= limit)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Find the k-th largest of all ranks' values, -inf where there are fewer. While ranks train, all call it."""
    padded = functional.pad(values, (0, max(k - values.numel(), 0)), value=-math.inf)
    world = _world()
    if world > 1:  # the k largest of all are among each rank's k largest
        largest = padded.topk(k).values
        gathered = [torch.empty_like(largest) for _ in range(world)]
        dist.all_gather(gathered, largest)
        padded = torch.cat(gathered)
    return padded.kthvalue(padded.numel() - k + 1).values


def global_mean(values: Tensor, count: Tensor) -> Tensor:
    """Divide the sum of all ranks' values by the sum of their counts; the same value on every rank.

    Its gradient is `world` times this rank's share, so that the mean over ranks is the gradient of the global mean.
    """
    share = values.sum()
    world = _world()
    if world == 1:
        return share / count.clamp(min=1)
    sums = _sum_over_ranks(torch.stack([share.detach().double(), count.double()]))
    mean = (sums[0] / sums[1].clamp(min=1)).to(share.dtype)
    own = share * world / sums[1].clamp(min=1).to(share.dtype)
    return mean + (own - own.detach())


def _world() -> int:
    distributed = dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()
    return dist.get_world_size() if distributed else 1


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    if _world() > 1:
        dist.all_reduce(tensor)
    return tensor

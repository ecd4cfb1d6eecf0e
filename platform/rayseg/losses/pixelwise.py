"""Losses that are a mean over pixels: cross-entropy, focal, OHEM's choice of pixels, the binary focal of borders.

Focal: "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002, eq. 4 and 5. Over classes it is
`alpha (1 - p)^gamma (-log p)` of the true class's probability p; over "border or not" it is alpha-balanced:
alpha for border pixels, 1 - alpha for the others. DFN's eq. 4 has no alpha, its authors' code 0.25.

OHEM: "Training Region-based Object Detectors with Online Hard Example Mining", https://arxiv.org/abs/1604.03540, in
the pixelwise form of GALD and OCNet.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rayseg.losses.ranks import kth_largest, sum_over_ranks


def focal(cross_entropy: Tensor, gamma: float, alpha: float) -> Tensor:
    """Turn cross-entropies `-log p` into focal losses, pixel by pixel."""
    # 1 - p rounds to 0 where the model is certain, and a power below 1 has no gradient there.
    rest = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(cross_entropy.dtype).tiny)
    return alpha * rest**gamma * cross_entropy


def border_focal(
    logits: Tensor, border: Tensor, *, gamma: float = 2.0, alpha: float | Literal["none"] = 0.25
) -> Tensor:
    """Compute the binary focal loss of each logit; `border` (bool) says where it should be high.

    With the truth at +1 and the rest at -1, `p = sigmoid(signed)`; softplus keeps both factors' logarithms exact.
    """
    signed = torch.where(border, logits, -logits)
    losses = torch.exp(-gamma * functional.softplus(signed)) * functional.softplus(-signed)
    return losses if alpha == "none" else torch.where(border, alpha * losses, (1 - alpha) * losses)


def hard_pixels(losses: Tensor, valid: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """Choose the pixels that OHEM keeps, among the valid ones: a mask like `losses` (B, H, W).

    Cross-entropy falls as the true class's probability rises, so `p <= max(threshold, k-th smallest p)` reads
    `loss >= min(-log threshold, k-th largest loss)`: exact, with at least k pixels (ties included) where there are k.
    Pixels that are not valid have loss 0, so they are never among the k hardest before a valid one.
    """
    limit = torch.tensor(-math.log(threshold), dtype=losses.dtype, device=losses.device)
    enough = sum_over_ranks((losses >= limit).sum()) >= min_kept
    if not bool(enough):  # the same on every rank
        limit = torch.minimum(limit, kth_largest(losses.flatten(), min_kept))
    return valid & (losses >= limit)

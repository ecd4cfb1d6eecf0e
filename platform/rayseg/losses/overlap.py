"""Losses of how regions overlap: soft Dice, and the Lovász extension of the Jaccard index.

Dice: "V-Net", https://arxiv.org/abs/1606.04797, with sums (not sums of squares) below the line, so that one-hot
probabilities give the Dice coefficient itself. Lovász: "The Lovász-Softmax loss", https://arxiv.org/abs/1705.08790,
Algorithm 1.

Both are of the pixels of the global batch together, not of each image or rank: a class that one image lacks is no
fault of it. Classes that the batch does not show are left out of the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rayseg.losses.ranks import gathered, global_sums, largest_length, or_one, world_size


def dice(p_BCHW: Tensor, labels_BHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `1 - 2 sum(p y) / (sum(p) + sum(y))` of each class, and which classes the global batch shows."""
    truth = _one_hot(p_BCHW, labels_BHW, valid_BHW)
    p = p_BCHW * valid_BHW[:, None]
    sums = global_sums(torch.stack([(p * truth).sum((0, 2, 3)), p.sum((0, 2, 3)), truth.sum((0, 2, 3)).to(p.dtype)]))
    both, predicted, true = sums
    return 1 - 2 * both / or_one(predicted + true), true > 0


def lovasz(p_BCHW: Tensor, labels_BHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each class's Lovász-softmax loss, and which classes the global batch shows.

    The extension is linear between changes of the errors' order: `sum(g e)` with errors `e = |y - p|` and g from
    their order alone. With `e = y + (1 - 2y) p` only one map per class is kept for the gradient.
    """
    truth = _one_hot(p_BCHW, labels_BHW, valid_BHW)
    g_BCHW, present_C = _slopes((p_BCHW.detach() - truth.to(p_BCHW.dtype)).abs(), truth, valid_BHW)
    constant_C = (g_BCHW * truth).sum((0, 2, 3))
    own = (p_BCHW * torch.where(truth, -g_BCHW, g_BCHW)).sum((0, 2, 3)) + constant_C
    return global_sums(own), present_C


def _slopes(errors_BCHW: Tensor, truth_BCHW: Tensor, valid_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Give each error's weight in the extension, 0 where ignored, and which classes are present. One class at a time:
    the global batch's errors of a single class fit where those of all would not.
    """
    valid_N = valid_BHW.flatten()
    length = largest_length(valid_N.numel(), valid_N.device)
    slopes, present = [], []
    for c in range(errors_BCHW.shape[1]):
        # Ignored pixels, and what fills up a smaller rank, come last and change nothing before them.
        errors_N = errors_BCHW[:, c].flatten().masked_fill(~valid_N, -1)
        errors_G = gathered(_filled(errors_N, length, -1))
        truth_G = gathered(_filled(truth_BCHW[:, c].flatten().byte(), length, 0))
        g_G = extension(errors_G, truth_G)
        start = _rank() * length
        own_N = g_G[start : start + valid_N.numel()].to(errors_N.dtype) * valid_N
        slopes.append(own_N.view_as(valid_BHW))
        present.append(truth_G.any())
    return torch.stack(slopes, 1), torch.stack(present)


def extension(errors_N: Tensor, truth_N: Tensor) -> Tensor:
    """Compute by how much the Jaccard loss grows as each pixel joins the wrong ones, the largest error first."""
    order = errors_N.argsort(descending=True, stable=True)  # stable: ties fall the same way on any number of ranks
    found = truth_N[order].cumsum(0, dtype=torch.float64)
    missed = torch.arange(1, len(order) + 1, device=order.device, dtype=torch.float64) - found
    total = found[-1]
    jaccard = 1 - (total - found) / or_one(total + missed)
    steps = jaccard.diff(prepend=jaccard.new_zeros(1))
    return torch.empty_like(steps).scatter_(0, order, steps)


def _one_hot(p_BCHW: Tensor, labels_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    classes = torch.arange(p_BCHW.shape[1], device=p_BCHW.device)[:, None, None]
    return (labels_BHW[:, None] == classes) & valid_BHW[:, None]


def _filled(values_N: Tensor, length: int, value: int) -> Tensor:
    return functional.pad(values_N, (0, length - values_N.numel()), value=value)


def _rank() -> int:
    return torch.distributed.get_rank() if world_size() > 1 else 0

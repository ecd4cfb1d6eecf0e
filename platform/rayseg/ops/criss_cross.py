"""Criss-cross attention (CCNet, https://arxiv.org/abs/1811.11721, eq. 1, 2): a pixel attends to its row and column.

The cross of a pixel has H + W - 1 pixels: it stands in its row and is left out of its column. Rows and columns are two
batches of matrix products around one softmax; N (H + W) weights are kept, never N x N.

Rows and columns are views of one channels-last copy, where the usual form copies queries, keys and values for each; one
image at a time, so that intermediate copies do not grow with the batch. Beyond inputs, a batch of 4 at 97 x 97 and 512
channels takes 147 MiB in inference and 267 in training, that form 290 and 474, in 1.6 and 1.2 times as long (one core);
a batch of 1 takes as much as it does. Recomputing the weights in the backward pass was tried: it saves little, since
the maps are larger than the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rayseg.ops.attention import without_autocast


def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from each pixel to the pixels of its row and its column, itself once; logits are not scaled.

    Args:
        q, k: (B, D, H, W).
        v: (B, C, H, W).

    Returns:
        (B, C, H, W): `sum_n softmax_n(q_p . k_n) v_n` over the H + W - 1 pixels n of p's cross.
    """
    return torch.stack([_one_image(*maps) for maps in zip(q, k, v, strict=True)])


def _one_image(q_DHW: Tensor, k_DHW: Tensor, v_CHW: Tensor) -> Tensor:
    q, k, v = (x.permute(1, 2, 0).contiguous() for x in (q_DHW, k_DHW, v_CHW))
    height, width = q.shape[:2]
    # Unscaled logits are too large for bfloat16: at least float32 also under autocast.
    exact = torch.promote_types(q.dtype, torch.float32)
    in_row_HWW, in_column_HWH = _weights(q.to(exact), k.to(exact)).to(v.dtype).split([width, height], -1)
    from_row_HWC = torch.bmm(in_row_HWW, v)
    out_WHC = torch.baddbmm(from_row_HWC.transpose(0, 1), in_column_HWH.transpose(0, 1), v.transpose(0, 1))
    return out_WHC.permute(2, 1, 0)


def _weights(q_HWD: Tensor, k_HWD: Tensor) -> Tensor:
    """Weigh (H, W, W + H): for each pixel those of its row, then those of its column."""
    itself_HH = torch.eye(q_HWD.shape[0], dtype=torch.bool, device=q_HWD.device)
    with without_autocast(q_HWD):
        in_row_HWW = torch.bmm(q_HWD, k_HWD.transpose(1, 2))
        in_column_WHH = torch.bmm(q_HWD.transpose(0, 1), k_HWD.permute(1, 2, 0))
        in_column_HWH = in_column_WHH.masked_fill(itself_HH, -math.inf).transpose(0, 1)
        return torch.cat([in_row_HWW, in_column_HWH], -1).softmax(-1)

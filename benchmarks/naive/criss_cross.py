"""Criss-cross attention in the usual form: rows and columns of the whole batch, each copied by its einsum."""

import math

import torch
from torch import Tensor


def criss_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Give every pixel logits to its row and to its column, one softmax over both; itself counts in the row only."""
    H, W = q.shape[-2:]
    rows = torch.einsum("bdhw,bdhj->bhwj", q, k)
    columns = torch.einsum("bdhw,bdiw->bhwi", q, k)
    itself = torch.eye(H, dtype=torch.bool, device=q.device)[:, None, :]
    weights = torch.cat([rows, columns.masked_fill(itself, -math.inf)], -1).softmax(-1)
    in_row, in_column = weights.split([W, H], -1)
    return torch.einsum("bhwj,bchj->bchw", in_row, v) + torch.einsum("bhwi,bciw->bchw", in_column, v)

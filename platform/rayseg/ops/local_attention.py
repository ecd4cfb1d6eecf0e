"""Dilated local attention (GALD, eq. 8), exact, in memory that grows with the map and not with map x window.

A pixel p attends to the k x k taps p + r(a, b), |a|, |b| <= k // 2. A tap outside the map has logit 0 and value 0 and
stays in the softmax's denominator (zero padding); logits are not scaled.

With dilation r the map falls into r x r interleaved sub-grids that never mix, and on each the window is an undilated
k x k. A sub-grid is small, so its attention is one masked dense product, with one sink key (logit `log n`, value 0)
for the n taps outside. Where sub-grids are large (small r, large maps), tiles of queries see a zero-padded halo of
keys. Both are batches of `scaled_dot_product_attention`, which never keeps the weights.

Forward and backward on a 97 x 97 map, 256 channels, k 5, r 6, one core: 86 MB alive beside q, k, v instead of 984, in
a sixth of the CPU time of the unfold form. Shift loops and bands of rows were tried: slower and larger for training.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DENSE_PX = 20
"""Sub-grids up to this many pixels a side are one dense product; above, tiles cost less (measured at k 5 and 7)."""
TILE_PX = 12
"""Queries a side of a tile: smaller ones copy more halo, larger ones compute more masked pairs."""


def local_attention(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int = 1) -> Tensor:
    """Attend from each pixel to the `kernel_size` x `kernel_size` taps around it, `dilation` pixels apart.

    Args:
        q, k: (B, D, H, W).
        v: (B, C, H, W).
        kernel_size: odd.

    Returns:
        (B, C, H, W): `sum_n softmax_n(q_p . k_{p+n}) v_{p+n}` with zero padding.
    """
    if kernel_size % 2 == 0 or kernel_size < 1 or dilation < 1:
        raise ValueError(f"kernel_size {kernel_size} must be odd and positive, dilation {dilation} positive")
    height, width = q.shape[-2:]
    grid = _Grid.of(height, width, kernel_size, dilation)
    keys, values = (_tiles(x, grid, grid.halo) for x in (k, v))
    if grid.halo == 0:  # the sink: one more key and value of zeros
        keys, values = (functional.pad(x, (0, 0, 0, 1)) for x in (keys, values))
    bias = _bias(grid, kernel_size, q)
    tiles = functional.scaled_dot_product_attention(_tiles(q, grid, 0), keys, values, attn_mask=bias, scale=1.0)
    return _whole(tiles, grid, v.shape[0])[:, :, :height, :width]


class _Grid(NamedTuple):
    """How a map is cut: `dilation` squared sub-grids of `rows` x `columns` tiles of `height` x `width` pixels."""

    dilation: int
    rows: int
    columns: int
    height: int
    width: int
    halo: int

    @classmethod
    def of(cls, height: int, width: int, kernel_size: int, dilation: int) -> _Grid:
        high, wide = -(-height // dilation), -(-width // dilation)
        if max(high, wide) <= DENSE_PX:
            return cls(dilation, 1, 1, high, wide, 0)
        rows, columns = -(-high // TILE_PX), -(-wide // TILE_PX)
        return cls(dilation, rows, columns, -(-high // rows), -(-wide // columns), kernel_size // 2)


def _tiles(x_BCHW: Tensor, grid: _Grid, halo: int) -> Tensor:
    """Cut into (B * sub-grids * tiles, 1, pixels of a tile with its halo, C), contiguous as SDPA's fast path needs.

    What is padded, at the edge to whole tiles or around as halo, has zero keys and values, as a tap outside must.
    """
    r, rows, columns, high, wide, _ = grid
    B, C, H, W = x_BCHW.shape
    x = functional.pad(x_BCHW, (0, columns * wide * r - W, 0, rows * high * r - H))
    x = x.view(B, C, rows * high, r, columns * wide, r).permute(0, 3, 5, 2, 4, 1)
    x = functional.pad(x, (0, 0, halo, halo, halo, halo))
    x = x.unfold(3, high + 2 * halo, high).unfold(4, wide + 2 * halo, wide)  # B r r rows columns C h w
    return x.permute(0, 1, 2, 3, 4, 6, 7, 5).reshape(-1, 1, (high + 2 * halo) * (wide + 2 * halo), C)


def _whole(tiles: Tensor, grid: _Grid, batch: int) -> Tensor:
    """Put tiles of queries together again: (B, C, H, W), padded to whole tiles."""
    r, rows, columns, high, wide, _ = grid
    x = tiles.view(batch, r, r, rows, columns, high, wide, -1).permute(0, 7, 3, 5, 1, 4, 6, 2)
    return x.reshape(batch, -1, rows * high * r, columns * wide * r)


def _bias(grid: _Grid, kernel_size: int, like: Tensor) -> Tensor:
    """Give the additive mask (queries, keys): 0 in the window, -inf outside it; `log n` for the sink."""
    device = like.device
    near_y = _near(grid.height, grid.halo, kernel_size, device)
    near_x = _near(grid.width, grid.halo, kernel_size, device)
    window = (near_y[:, None, :, None] & near_x[None, :, None, :]).reshape(grid.height * grid.width, -1)
    bias = torch.zeros(window.shape, dtype=like.dtype, device=device).masked_fill(~window, -math.inf)
    if grid.halo:
        return bias
    num_outside = kernel_size**2 - window.sum(1, keepdim=True)
    return torch.cat([bias, num_outside.to(like.dtype).log()], 1)


def _near(size: int, halo: int, kernel_size: int, device: torch.device) -> Tensor:
    query = torch.arange(size, device=device)[:, None]
    key = torch.arange(-halo, size + halo, device=device)[None]
    return (query - key).abs() <= kernel_size // 2

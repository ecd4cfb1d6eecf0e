"""Dilated local attention (GALD, eq. 8), exact, in memory that grows with the map and not with map x window.

A pixel p attends to the k x k taps p + r(a, b), |a|, |b| <= k // 2. A tap outside the map has logit 0 and value 0 and
stays in the softmax's denominator (zero padding); logits are not scaled.

With dilation r the map falls into r x r interleaved sub-grids that never mix, and on each the window is an undilated
k x k. A sub-grid is small, so its attention is one masked dense product, with one sink key (logit `log n`, value 0)
for the n taps outside. Where sub-grids are large (small r, large maps), tiles of queries see a zero-padded halo of
keys. Both are batches of `scaled_dot_product_attention`, which never keeps the weights.

Inference on the CPU, where nothing is kept for a backward pass, goes tap by tap instead: the whole band of rows is
shifted, weighted and added up, channels last, in bands that stay in the cache. That is about half the memory and half
the time of the sub-grids again; for training it is slower and larger. docs/benchmarks/local_attention.md has the
figures, against the unfold form too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DENSE_PX = 20
"""Sub-grids up to this many pixels a side are one dense product; above, tiles cost less (measured at k 5 and 7)."""
TILE_PX = 12
"""Queries a side of a tile: smaller ones copy more halo, larger ones compute more masked pairs."""
BAND_PX = 2048
"""Pixels of a band of rows in inference: 1024 to 4096 take the same time, a whole 97 x 97 map up to half more."""


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
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    # A compiled or exported graph would hold two nodes for every tap and band. On CUDA the taps were not measured.
    if learning or q.device.type != "cpu" or torch.compiler.is_compiling():
        return _by_sub_grids(q, k, v, kernel_size, dilation)
    return _by_taps(q, k, v, kernel_size, dilation)


# --- sub-grids ------------------------------------------------------------------------------------------------------


def _by_sub_grids(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, dilation: int) -> Tensor:
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


# --- taps -----------------------------------------------------------------------------------------------------------


def _by_taps(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, dilation: int) -> Tensor:
    B, _, H, W = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)  # bfloat16 would round at each of the taps
    taps = list(_taps(H, W, kernel_size, dilation))
    q_BHWD, k_BHWD = (x.permute(0, 2, 3, 1).contiguous() for x in (q, k))
    logits_TBHW = q.new_zeros(kernel_size**2, B, H, W, dtype=exact)  # a tap outside keeps its 0
    for tap, (y, x), (to_y, to_x) in taps:
        logits_TBHW[tap, :, y, x] = (q_BHWD[:, y, x] * k_BHWD[:, to_y, to_x]).sum(-1, dtype=exact)
    del q_BHWD, k_BHWD
    weights_TBHW1 = logits_TBHW.softmax(0).unsqueeze(-1)
    v_BHWC = v.permute(0, 2, 3, 1).contiguous()
    out_BHWC = torch.zeros_like(v_BHWC, dtype=exact)
    for tap, (y, x), (to_y, to_x) in taps:
        out_BHWC[:, y, x].addcmul_(weights_TBHW1[tap, :, y, x], v_BHWC[:, to_y, to_x])
    return out_BHWC.permute(0, 3, 1, 2).to(v.dtype)


def _taps(
    height: int, width: int, kernel_size: int, dilation: int
) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """List, band by band of rows, each tap's number, the pixels for which it is inside, and where it is for them."""
    band = max(BAND_PX // width, 1)
    steps = [dilation * (n - kernel_size // 2) for n in range(kernel_size)]
    for start in range(0, height, band):
        for tap in range(kernel_size**2):
            dy, dx = steps[tap // kernel_size], steps[tap % kernel_size]
            top, bottom = max(start, -dy), min(start + band, height, height - dy)
            left, right = max(0, -dx), min(width, width - dx)
            if top < bottom and left < right:
                here = slice(top, bottom), slice(left, right)
                yield tap, here, (slice(top + dy, bottom + dy), slice(left + dx, right + dx))

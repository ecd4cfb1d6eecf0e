"""Dilated local attention (GALD, eq. 8), exact, in memory that grows with the map and not with map x window.

A pixel p attends to the k x k taps p + r(a, b), |a|, |b| <= k // 2. A tap outside the map has logit 0 and value 0 and
stays in the softmax's denominator (zero padding); logits are not scaled.

On the CPU the taps are taken one by one: a band of rows is multiplied with the band that the tap sees, and added up,
channels last. A band stays in the cache through all taps. Kept for the backward pass are q, k, v and the weights, k x k
numbers a pixel; there each tap costs four passes more, also in bands.

On CUDA, and where the graph is compiled or exported (two nodes for each tap and band would be thousands), taps become
few large products. With dilation r the map falls into r x r interleaved sub-grids that never mix, and on each the
window is an undilated k x k. A sub-grid is small, so its attention is one masked dense product, with one sink key
(logit `log n`, value 0) for the n taps outside. Where sub-grids are large (small r, large maps), tiles of queries see a
zero-padded halo of keys. Both are batches of `scaled_dot_product_attention`, which never keeps the weights. On the CPU
this takes twice the memory and, but for small maps of few channels, more time: docs/benchmarks/local_attention.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

DENSE_PX = 20
"""Sub-grids up to this many pixels a side are one dense product; above, tiles cost less (measured at k 5 and 7)."""
TILE_PX = 12
"""Queries a side of a tile: smaller ones copy more halo, larger ones compute more masked pairs."""
BAND_PX = 2048
"""Pixels of a band of rows: 1024 to 4096 take the same time, a whole 97 x 97 map up to half more."""


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
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return by_sub_grids(q, k, v, kernel_size=kernel_size, dilation=dilation)
    out, _ = _ByTaps.apply(q, k, v, tuple(_taps(q.shape[-2], q.shape[-1], kernel_size, dilation)), kernel_size**2)
    return out


def weights_at(q: Tensor, k: Tensor, pixel: tuple[int, int], *, kernel_size: int, dilation: int = 1) -> Tensor:
    """Give the weights (B, kernel_size, kernel_size) by which one pixel (row, column) attends to its taps.

    They sum to 1 with those of the taps outside the map, which have the logit 0.
    """
    reach = dilation * (kernel_size // 2)
    rows, columns = (slice(at, at + 2 * reach + 1, dilation) for at in pixel)
    exact = torch.promote_types(q.dtype, torch.float32)
    window_BDkk = functional.pad(k, (reach,) * 4)[:, :, rows, columns].to(exact)
    logits_Bkk = (q[:, :, pixel[0], pixel[1], None, None].to(exact) * window_BDkk).sum(1)
    return logits_Bkk.flatten(1).softmax(1).view_as(logits_Bkk)


# --- taps -----------------------------------------------------------------------------------------------------------

_Tap = tuple[int, tuple[slice, slice], tuple[slice, slice]]
"""A tap's number, pixels (rows, columns) for which it is inside the map, and where it is for them."""


class _ByTaps(torch.autograd.Function):
    """Gives the result and, to keep, the weights (taps, B, H, W), in float32 at least: bfloat16 rounds at every tap."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, taps: Sequence[_Tap], num_taps: int) -> tuple[Tensor, Tensor]:
        # A tap outside has the logit 0 that it was made with.
        weights = _products(_channels_last(q), _channels_last(k), taps, num_taps).softmax(0)
        v_BHWC = _channels_last(v)
        out_BHWC = torch.zeros_like(v_BHWC, dtype=weights.dtype)
        for n, here, there in taps:
            out_BHWC[:, *here].addcmul_(weights[n][:, *here, None], v_BHWC[:, *there])
        return _channels_first(out_BHWC, v), weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.taps, ctx.num_taps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, weights = ctx.saved_tensors
        grad_v, grad_weights = _values_gradients(grads[0], v, weights, ctx.taps)
        grad_logits = weights * (grad_weights - (weights * grad_weights).sum(0))
        del grad_weights
        q_BHWD, k_BHWD = _channels_last(q), _channels_last(k)
        grad_q, grad_k = (torch.zeros_like(q_BHWD, dtype=weights.dtype) for _ in range(2))
        for n, here, there in ctx.taps:
            scale = grad_logits[n][:, *here, None]
            grad_q[:, *here].addcmul_(scale, k_BHWD[:, *there])
            grad_k[:, *there].addcmul_(scale, q_BHWD[:, *here])
        return _channels_first(grad_q, q), _channels_first(grad_k, k), grad_v, None, None


def _values_gradients(grad: Tensor, v: Tensor, weights: Tensor, taps: Sequence[_Tap]) -> tuple[Tensor, Tensor]:
    grad_BHWC = _channels_last(grad)
    grad_weights = _products(grad_BHWC, _channels_last(v), taps, weights.shape[0])
    grad_v = torch.zeros_like(grad_BHWC, dtype=weights.dtype)
    for n, here, there in taps:
        grad_v[:, *there].addcmul_(weights[n][:, *here, None], grad_BHWC[:, *here])
    return _channels_first(grad_v, v), grad_weights


def _products(a_BHWC: Tensor, b_BHWC: Tensor, taps: Sequence[_Tap], num_taps: int) -> Tensor:
    """Multiply each pixel of `a` with what its taps see of `b`: (taps, B, H, W), 0 for taps outside."""
    exact = torch.promote_types(a_BHWC.dtype, torch.float32)
    out = a_BHWC.new_zeros(num_taps, *a_BHWC.shape[:3], dtype=exact)
    for n, here, there in taps:
        out[n][:, *here] = (a_BHWC[:, *here] * b_BHWC[:, *there]).sum(-1, dtype=exact)
    return out


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).contiguous()


def _channels_first(x_BHWC: Tensor, like: Tensor) -> Tensor:
    return x_BHWC.permute(0, 3, 1, 2).to(like.dtype)


def _taps(height: int, width: int, kernel_size: int, dilation: int) -> Iterator[_Tap]:
    """List the taps, all of one band of rows after all of the band before."""
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


# --- sub-grids ------------------------------------------------------------------------------------------------------


def by_sub_grids(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int) -> Tensor:
    """Compute the same by sub-grids or tiles, on any device."""
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

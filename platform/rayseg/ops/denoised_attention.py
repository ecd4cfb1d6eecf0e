"""Denoised attention: the GR and LR blocks of Denoised NL (https://arxiv.org/abs/2110.14200, Figure 4), exact, lean.

Of the attention A = softmax_j(q_i . k_j) of all pixel pairs, Global Rectifying makes A'_ij = A_ij sigmoid(P_i . P_j)
from class predictions P, and Local Retention smooths each query's attention image by the likeness of neighbours:

    A''_ij = sum_d S_d,j A'_i,j+d        S_d,j = sigmoid(q_j . k_j+d),  d over k x k,  nothing outside the map

as the authors' code does: the paper does not say along which axis of A' the window runs. There it is the keys'.

Rewrite: A'' enters only as A'' V, and the sum over j can be taken first:

    A'' V = A' V~        V~_m = sum_d S_d,m-d V_m-d

V~ costs k x k passes over the values instead of over N x N pairs, and what is left is one gated `attention`, which
keeps no pairs. Naive, the smoothing copies N x N pairs k x k times: 425 MiB at N = 48 x 48.

Legend: B images, D and C channels, P classes, H x W = N pixels, T = k x k taps. Maps are flat: a tap (y, x) is a shift
by y W + x, and weights that would wrap around a border are 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rayseg.ops.attention import attention, without_autocast

CACHED = 2**18
"""Values at a time, some channels of all pixels: they stay in the cache through all taps."""


def denoised_attention(
    q: Tensor, k: Tensor, v: Tensor, *, classes: Tensor | None = None, kernel_size: int | None = None
) -> Tensor:
    """Attend from each pixel to all, with attention rectified by `classes` and smoothed in a window.

    Args:
        q, k: (B, D, H, W).
        v: (B, C, H, W).
        classes: (B, P, H, W), Global Rectifying's predictions; without them attention is not rectified.
        kernel_size: odd, Local Retention's window; without it attention is not smoothed.

    Returns:
        (B, C, H, W), in the type of `v`.
    """
    if kernel_size is not None and (kernel_size % 2 == 0 or kernel_size < 1):
        raise ValueError(f"kernel_size {kernel_size} must be odd and positive")
    values = v.flatten(2) if kernel_size is None else retained_values(q, k, v, kernel_size=kernel_size)
    gate = None if classes is None else classes.flatten(2)
    return attention(q.flatten(2), k.flatten(2), values, gate_BPN=gate).view_as(v)


def retained_values(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int) -> Tensor:
    """Spread each pixel's value over its window, weighted by `S`: V~ (B, C, N)."""
    height, width = q.shape[-2:]
    taps = _Taps.of(height, width, kernel_size)
    exact = torch.promote_types(q.dtype, torch.float32)
    products_BTN = _Products.apply(q.flatten(2).to(exact), k.flatten(2).to(exact), taps.shifts)
    weights_BTN = products_BTN.sigmoid() * taps.inside(q.device)
    return _Spread.apply(weights_BTN, v.flatten(2), taps.shifts)


class MapsAt(NamedTuple):
    """A pixel's attention (B, H, W): A, GR's A' and LR's A''; None where the block is left out."""

    attention: Tensor
    rectified: Tensor | None
    retained: Tensor | None


def maps_at(
    q: Tensor, k: Tensor, pixel: tuple[int, int], *, classes: Tensor | None = None, kernel_size: int | None = None
) -> MapsAt:
    """Give one pixel's rows (row, column) of the maps that `denoised_attention` never makes; arguments as there."""
    B, _, H, W = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    q_BDN, k_BDN, at = q.flatten(2).to(exact), k.flatten(2).to(exact), pixel[0] * W + pixel[1]
    with without_autocast(q):
        newest = attention = (q_BDN[:, :, at, None] * k_BDN).sum(1).softmax(1)
        rectified = retained = None
        if classes is not None:
            classes_BPN = classes.flatten(2).to(exact)
            newest = rectified = attention * (classes_BPN[:, :, at, None] * classes_BPN).sum(1).sigmoid()
        if kernel_size is not None:
            taps = _Taps.of(H, W, kernel_size)
            weights_BTN = _multiply(q_BDN, k_BDN, taps.shifts).sigmoid() * taps.inside(q.device)
            retained = _spread(weights_BTN, newest.unsqueeze(1), taps.shifts, gather=True)
    rectified, retained = (None if x is None else x.view(B, H, W) for x in (rectified, retained))
    return MapsAt(attention.view(B, H, W), rectified, retained)


class _Taps(NamedTuple):
    """The window on a map of `height` x `width`: for each tap its (y, x)."""

    height: int
    width: int
    offsets: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, height: int, width: int, kernel_size: int) -> _Taps:
        """Leave out taps that are outside from every pixel, where the map is smaller than the window."""
        ys, xs = (range(-min(kernel_size // 2, n - 1), min(kernel_size // 2, n - 1) + 1) for n in (height, width))
        return cls(height, width, tuple((y, x) for y in ys for x in xs))

    @property
    def shifts(self) -> tuple[int, ...]:
        return tuple(y * self.width + x for y, x in self.offsets)

    def inside(self, device: torch.device) -> Tensor:
        """Say of each tap and pixel whether the tap is on the map: (T, N)."""
        row = torch.arange(self.height, device=device).view(1, -1, 1)
        column = torch.arange(self.width, device=device).view(1, 1, -1)
        y, x = torch.tensor(self.offsets, device=device).T.view(2, -1, 1, 1)
        fits_y = (row + y >= 0) & (row + y < self.height)
        return (fits_y & (column + x >= 0) & (column + x < self.width)).flatten(1)


# --- sums over shifts; each one's gradients are the others ----------------------------------------------------------


def _channels(channels: int, num_pixels: int) -> list[slice]:
    step = max(CACHED // num_pixels, 1)
    return [slice(first, first + step) for first in range(0, channels, step)]


def _ranges(num_pixels: int, shift: int) -> tuple[slice, slice]:
    """Give the pixels whose shifted neighbour exists, and those neighbours."""
    here = slice(max(0, -shift), num_pixels - max(0, shift))
    return here, slice(here.start + shift, here.stop + shift)


def _multiply(a_BCN: Tensor, b_BCN: Tensor, shifts: tuple[int, ...]) -> Tensor:
    """`sum_c a_j b_j+d` for every shift d: (B, T, N), 0 where j + d is no pixel."""
    B, C, N = a_BCN.shape
    out = a_BCN.new_zeros(B, len(shifts), N, dtype=torch.promote_types(a_BCN.dtype, torch.float32))
    for some in _channels(C, N):
        a, b = (x[:, some].to(out.dtype) for x in (a_BCN, b_BCN))
        for tap, shift in enumerate(shifts):
            here, there = _ranges(N, shift)
            out[:, tap, here] += (a[:, :, here] * b[:, :, there]).sum(1)
    return out


def _spread(w_BTN: Tensor, x_BCN: Tensor, shifts: tuple[int, ...], *, gather: bool = False) -> Tensor:
    """`out_j+d += w_d,j x_j` over all d and j; with `gather` its adjoint, `out_j += w_d,j x_j+d`."""
    out = torch.empty_like(x_BCN)
    for some in _channels(*x_BCN.shape[1:]):
        x = x_BCN[:, some].to(w_BTN.dtype)
        total = torch.zeros_like(x)
        for tap, shift in enumerate(shifts):
            here, there = _ranges(x.shape[2], shift)
            source, target = (there, here) if gather else (here, there)
            total[:, :, target].addcmul_(w_BTN[:, tap : tap + 1, here], x[:, :, source])
        out[:, some] = total
    return out


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, shifts: tuple[int, ...]) -> Tensor:
        with without_autocast(q):
            return _multiply(q, k, shifts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.shifts = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k = ctx.saved_tensors
        with without_autocast(q):
            return _spread(grads[0], k, ctx.shifts, gather=True), _spread(grads[0], q, ctx.shifts), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, values: Tensor, shifts: tuple[int, ...]) -> Tensor:
        with without_autocast(values):
            return _spread(weights, values, shifts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.shifts = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        weights, values = ctx.saved_tensors
        with without_autocast(values):
            return _multiply(values, grads[0], ctx.shifts), _spread(weights, grads[0], ctx.shifts, gather=True), None

"""Distance guided channel weighting (DGCWNet, eq. 2 to 5), exact, with a few pixels' pairs alive and not all pairs.

For pixels i, j and over C channels: `M = (Q_i - K_j)^2`, `W = f(M)`, `R_ij = last(relu(first(W . V_i)))`, and the
result is `sum_j R_ij`. Written down so, M, W and R are N x N vectors each. Here:

* the sum is pulled through the last convolution, which then runs on N vectors: half of the multiply-adds;
* f = P / s with one s per pair (DBS: P = M, s = sum_c P + eps; softmax: P = exp M, s = sum_c P), and s > 0, so
  `relu(W1 (V_i . P) / s + b1) = relu((W1 diag(V_i)) P + s b1) / s`: W is never formed, 1/s meets the sum over j, and
  s b1 is one more matrix on P;
* pixels i go through in chunks that stay in a core's cache, in buffers that are used again. The backward pass computes
  a chunk anew: 4 products of N^2 C^2 multiply-adds for a training step, of 6 as written. The rest takes little time.

M is taken as it stands. `|Q|^2 - 2 Q.K + |K|^2` would turn it into products, twice as many, and lose the digits of
close Q and K. Under autocast all this is float32, for the same reason; the last convolution is autocast's.

At N = 625, C = 128 the written-down form has 1.3 GiB alive in training, this 6 MiB, and it is several times faster:
docs/benchmarks/channel_weighting.md. `checkpoint` around plain operations on each chunk was tried: more memory, slower.
Compilers see two operations, forward and backward, instead of a loop of hundreds of chunks; what they export needs this
file to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rayseg.ops.attention import without_autocast

Weighting = Literal["dbs", "softmax", "tanh"]
EPS = 1e-6
"""DBS divides by `sum_c M + EPS`: where Q_i = K_j, weights are 0 and not 0 / 0."""
CACHE_BYTES = 2**20
"""A chunk's pairs on the CPU (2^18 to 2^24 were measured: docs/benchmarks/channel_weighting.md)."""
DEVICE_BYTES = 2**23
"""A chunk's pairs elsewhere, for kernels that outlast their launch: an estimate, not measured."""


def dgcw(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    weighting: Weighting = "dbs",
    chunk_bytes: int | None = None,
) -> Tensor:
    """Sum each pixel's relations to all pixels: `sum_j last(relu(first(f((q_i - k_j)^2) . v_i)))`.

    Args:
        q, k, v: (B, C, H, W).
        w1, b1: the first 1x1 convolution, (D, C) and (D,).
        w2, b2: the last one, (E, D) and (E,).
        weighting: f, over the channels: division by their sum, softmax, or each channel's tanh.
        chunk_bytes: how large the pairs that are alive may be, one pixel's at least; by the device when absent.

    Returns:
        (B, E, H, W). Second derivatives are refused.
    """
    if weighting not in _OWN_BIAS:
        raise ValueError(f"weighting {weighting!r} is none of {', '.join(_OWN_BIAS)}")
    exact = torch.promote_types(q.dtype, torch.float32)
    maps_BNC = (x.to(exact).flatten(2).transpose(1, 2).contiguous() for x in (q, k, v))
    limit = chunk_bytes or (CACHE_BYTES if q.device.type == "cpu" else DEVICE_BYTES)
    sums_BND = _RelationSums.apply(weighting, limit, *maps_BNC, w1.to(exact), b1.to(exact))
    y_BNE = functional.linear(sums_BND.to(q.dtype), w2, q.shape[2] * q.shape[3] * b2)
    return y_BNE.transpose(1, 2).unflatten(2, q.shape[2:])


_OWN_BIAS = {"dbs": EPS, "softmax": 0.0, "tanh": 1.0}
"""How often b1 is added beside the matrix. Where s divides, s is sum_c P and this: the matrix adds b1 sum_c P times."""


class _Pairs(NamedTuple):
    """b pixels i with all N pixels j: `u = relu(p a^T + bias)`, which s divides (1 for tanh).

    Shapes: p (b, N, C), a (b, D, C), u (b, N, D), inverse_s (b, N, 1).
    """

    p: Tensor
    a: Tensor
    u: Tensor
    inverse_s: Tensor


class _Relations:
    """Compute pairs chunk by chunk, in the same buffers: the next chunk overwrites the last."""

    def __init__(self, operands: Sequence[Tensor], weighting: str, chunk_bytes: int) -> None:
        self.q, self.k, self.v, self.w1, self.b1 = operands
        self.weighting, self.normalised = weighting, weighting != "tanh"
        (batch, num_pixels, channels), width = self.q.shape, len(self.b1)
        row_bytes = max(num_pixels, width) * max(channels, width) * self.q.element_size()
        rows = min(max(chunk_bytes // row_bytes, 1), num_pixels)
        starts = range(0, num_pixels, rows)
        self.chunks = [(n, slice(i, min(i + rows, num_pixels))) for n in range(batch) for i in starts]
        self.p_bNC = self.q.new_empty(rows, num_pixels, channels)
        self.u_bND = self.q.new_empty(rows, num_pixels, width)

    def pairs(self, n: int, i: slice) -> _Pairs:
        """Compute the pairs of pixels `i` of image `n`."""
        b = i.stop - i.start
        p = torch.sub(self.q[n, i, None], self.k[n], out=self.p_bNC[:b]).square_()
        inverse_s = self._weigh(p)
        a = self.w1 * self.v[n, i, None]
        if self.normalised:
            a += self.b1[:, None]
        bias = _OWN_BIAS[self.weighting] * self.b1
        return _Pairs(p, a, torch.baddbmm(bias, p, a.mT, out=self.u_bND[:b]).relu_(), inverse_s)

    def _weigh(self, m: Tensor) -> Tensor:
        """Turn M into P in place, and give 1 / s."""
        if self.weighting == "tanh":
            return m.tanh_().new_ones(1, 1, 1).expand(*m.shape[:2], 1)
        if self.weighting == "softmax":
            m.sub_(m.amax(2, keepdim=True)).exp_()
        return m.sum(2, keepdim=True).add_(_OWN_BIAS[self.weighting]).reciprocal_()

    def products_backward(self, pairs: _Pairs, h_bD1: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the gradients of p (in `out`), of a (b, D, C) and of b1, for `h` of the sums; overwrites a and u."""
        p, a, u, inverse_s = pairs
        ds = torch.bmm(u, h_bD1).mul_(inverse_s.square().neg_()) if self.normalised else p.new_zeros(1, 1, 1)
        slope = u.sign_().mul_(inverse_s)
        da = torch.bmm(slope.mT, p).mul_(h_bD1)
        db1 = _OWN_BIAS[self.weighting] * (slope.sum(1) * h_bD1[..., 0]).sum(0)
        if self.normalised:
            db1 += da.sum((0, 2))
        return torch.baddbmm(ds, slope, a.mul_(h_bD1), out=out), da, db1

    def distances_backward(self, n: int, i: slice, dp: Tensor, p: Tensor) -> Tensor:
        """Give the gradient of `q_i - k_j` (b, N, C), in place of that of p; overwrites p."""
        if self.weighting == "softmax":
            dp.mul_(p)
        elif self.weighting == "tanh":
            dp.mul_(p.square_().neg_().add_(1))
        return dp.mul_(torch.sub(self.q[n, i, None], self.k[n], out=p)).mul_(2)


def _sums(operands: Sequence[Tensor], weighting: str, chunk_bytes: int) -> Tensor:
    """Compute `sum_j relu(first(W_ij . V_i))` (B, N, D) of q, k, v (B, N, C), w1 and b1."""
    relations = _Relations(operands, weighting, chunk_bytes)
    sums_BND = relations.q.new_empty(*relations.q.shape[:2], len(relations.b1))
    with without_autocast(sums_BND):
        for n, i in relations.chunks:
            pairs = relations.pairs(n, i)
            torch.bmm(pairs.inverse_s.mT, pairs.u, out=sums_BND[n, i, None])
    return sums_BND


def _gradients(grad_BND: Tensor, operands: Sequence[Tensor], weighting: str, chunk_bytes: int) -> list[Tensor]:
    """Give the gradients of the operands of `_sums` for the gradient of its result."""
    relations = _Relations(operands, weighting, chunk_bytes)
    dq, dk, dv, dw1, db1 = gradients = [torch.zeros_like(x) for x in operands]
    dp_bNC = torch.empty_like(relations.p_bNC)
    with without_autocast(grad_BND):
        for n, i in relations.chunks:
            pairs = relations.pairs(n, i)
            dp, da, own = relations.products_backward(pairs, grad_BND[n, i, :, None], dp_bNC[: i.stop - i.start])
            dv[n, i] = (da * relations.w1).sum(1)
            dw1 += da.mul_(relations.v[n, i, None]).sum(0)
            db1 += own
            difference = relations.distances_backward(n, i, dp, pairs.p)
            dq[n, i] = difference.sum(1)
            dk[n] -= difference.sum(0)
    return gradients


_sums_op = torch.library.custom_op("rayseg::relation_sums", _sums, mutates_args=())
_gradients_op = torch.library.custom_op("rayseg::relation_gradients", _gradients, mutates_args=())


@_sums_op.register_fake
def _(operands: Sequence[Tensor], weighting: str, chunk_bytes: int) -> Tensor:
    return operands[0].new_empty(*operands[0].shape[:2], operands[-1].shape[0])


@_gradients_op.register_fake
def _(grad_BND: Tensor, operands: Sequence[Tensor], weighting: str, chunk_bytes: int) -> list[Tensor]:
    return [torch.empty_like(x) for x in operands]


class _RelationSums(torch.autograd.Function):
    """`_sums`, with `_gradients` as its backward pass; for a compiler, one operation each."""

    @staticmethod
    def forward(weighting: str, chunk_bytes: int, *operands: Tensor) -> Tensor:
        compute = _sums_op if torch.compiler.is_compiling() else _sums
        return compute(operands, weighting, chunk_bytes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.weighting, ctx.chunk_bytes, *operands = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BND: Tensor) -> tuple[Tensor | None, ...]:
        compute = _gradients_op if torch.compiler.is_compiling() else _gradients
        return None, None, *compute(grad_BND, ctx.saved_tensors, ctx.weighting, ctx.chunk_bytes)

"""Attention of every pixel to every pixel, exact, without a map of all pairs: memory grows with N, not with N x N.

    out_i = sum_j softmax_j(q_i . k_j) g_ij v_j        g_ij = sigmoid(gate_i . gate_j), or 1 without a gate

Logits are not scaled, values may be wider than keys (64 and 512 in non-local networks), and the gate multiplies after
the softmax: the weights of a pixel then sum to less than 1 (`denoised_attention` is what needs it).

Legend: B images, D channels of queries and keys, C of values, P of the gate, N pixels, b pixels of a chunk.

Forward: a chunk of queries against all keys. Backward: a chunk of keys against all queries, whose weights come again
from the kept log-sum-exp; so the wide gradient (of v) is written once and only narrow ones are summed up. A checkpoint
per chunk would compute the product with v a second time. Logits are float32 also where autocast made q and k bfloat16:
unscaled ones are too large to be rounded to 8 bits.

On CUDA without a gate this is `scaled_dot_product_attention`, whose kernels take unequal widths. On the CPU its fused
kernel takes equal widths only; both ways to get there (keys padded with zeros, values cut into heads) multiply 1.8
times as much and were slower: docs/benchmarks/attention.md.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MIN_CHUNK = 192
"""Pixels of a chunk on large maps: fewer leave matrix products too thin, more only take memory (measured, CPU)."""
SMALL_PAIRS = 2**18
"""Pairs of a chunk on small maps. Where all pairs are no more, up to N = 512, the plain form is as lean, and faster."""


def attention(q_BDN: Tensor, k_BDN: Tensor, v_BCN: Tensor, *, gate_BPN: Tensor | None = None) -> Tensor:
    """Give each pixel the mean of all values, weighted by the softmax of its unscaled products with all keys.

    Args:
        q_BDN, k_BDN: (B, D, N).
        v_BCN: (B, C, N); C need not be D.
        gate_BPN: (B, P, N); multiplies each weight by `sigmoid(gate_i . gate_j)`.

    Returns:
        (B, C, N), in the type of `v_BCN`.
    """
    if gate_BPN is None and q_BDN.is_cuda:
        return fused_attention(q_BDN, k_BDN, v_BCN)
    exact = torch.promote_types(q_BDN.dtype, torch.float32)
    inputs = (q_BDN.to(exact), k_BDN.to(exact), v_BCN, None if gate_BPN is None else gate_BPN.to(exact))
    if q_BDN.shape[2] ** 2 <= SMALL_PAIRS:
        with without_autocast(q_BDN):
            return _whole(*inputs)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _ChunkedAttention.apply(*inputs)[0]
    return _in_chunks(inputs, None)


def fused_attention(q_BDN: Tensor, k_BDN: Tensor, v_BCN: Tensor) -> Tensor:
    """Do the same in torch's kernels, which are lean on CUDA alone."""
    q, k, v = (x.transpose(1, 2).unsqueeze(1).contiguous() for x in (q_BDN, k_BDN, v_BCN))
    return functional.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).transpose(1, 2)


def chunks(num_pixels: int) -> list[slice]:
    """Cut pixels into chunks; the last may be shorter."""
    size = max(MIN_CHUNK, SMALL_PAIRS // max(num_pixels, 1))
    return [slice(start, min(start + size, num_pixels)) for start in range(0, num_pixels, size)]


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in the types that the tensors have."""
    kind = x.device.type
    # Only where it is on: an exported program cannot be loaded again with a region that turns it off.
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


_Four = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""q, k, v, gate, or their gradients."""


class _ChunkedAttention(torch.autograd.Function):
    """q, k, v, gate to the result and the log-sum-exp of each query's logits (B, N)."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        lse_BN = q.new_empty(q.shape[0], q.shape[2])
        return _in_chunks((q, k, v, gate), lse_BN), lse_BN

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        out, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.save_for_backward(*inputs, out, lse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, gate, out, lse = ctx.saved_tensors
        with without_autocast(q):
            return _gradients((q, k, v, gate), (out, lse), grads[0].contiguous())


def _whole(q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None) -> Tensor:
    w_BNN = torch.bmm(q.transpose(1, 2), k).softmax(-1)
    if gate is not None:
        w_BNN = w_BNN * torch.bmm(gate.transpose(1, 2), gate).sigmoid()
    return torch.bmm(v, w_BNN.to(v.dtype).transpose(1, 2))


def _in_chunks(inputs: _Four, lse_BN: Tensor | None) -> Tensor:
    """Attend, a chunk of queries at a time; write each query's log-sum-exp to `lse_BN` where it is wanted."""
    q, k, v, gate = inputs
    out = torch.empty_like(v)
    with without_autocast(q):
        for part in chunks(q.shape[2]):
            logits_BbN = torch.bmm(q[:, :, part].transpose(1, 2), k)
            w_BbN = logits_BbN.softmax(-1)
            if lse_BN is not None:  # of the likeliest key, whose weight is no rounding error
                lse_BN[:, part] = logits_BbN.amax(-1) - w_BbN.amax(-1).log()
            if gate is not None:
                w_BbN.mul_(_gates(gate[:, :, part], gate))
            out[:, :, part] = torch.bmm(v, w_BbN.to(v.dtype).transpose(1, 2))
    return out


def _gates(gate_BPb: Tensor, gate_BPN: Tensor) -> Tensor:
    return torch.bmm(gate_BPb.transpose(1, 2), gate_BPN).sigmoid_()


def _gradients(inputs: _Four, outputs: tuple[Tensor, Tensor], dout: Tensor) -> _Four:
    q, k, v, gate = inputs
    out, lse_BN = outputs
    delta_B1N = (dout * out).sum(1, keepdim=True, dtype=lse_BN.dtype)
    dgate = None if gate is None else torch.zeros_like(gate)
    gradients = (torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v), dgate)
    for part in chunks(dout.shape[2]):
        _add_chunk(part, inputs, gradients, (lse_BN.unsqueeze(1), delta_B1N, dout))
    return gradients


def _add_chunk(part: slice, inputs: _Four, gradients: _Four, known: tuple[Tensor, Tensor, Tensor]) -> None:
    """Add what a chunk of keys gives; pairs are (B, b keys, N queries). A function, so that none outlives its turn.

    With a the softmax, g the gate, w = a g and y = w dw: `dlogits = y - a (dout . out)`, `dproduct = y (1 - g)`.
    """
    (q, k, v, gate), (dq, dk, dv, dgate), (lse, delta, dout) = inputs, gradients, known
    a = torch.bmm(k[:, :, part].transpose(1, 2), q).sub_(lse).exp_()
    g = None if gate is None else _gates(gate[:, :, part], gate)
    w = a if g is None else a * g
    dv[:, :, part] = torch.bmm(dout, w.to(v.dtype).transpose(1, 2))
    dw = torch.bmm(v[:, :, part].transpose(1, 2), dout).to(q.dtype)
    if gate is None or dgate is None or g is None:
        dlogits = dw.sub_(delta).mul_(a)
    else:
        y = w.mul_(dw)
        dlogits = a.mul_(delta).neg_().add_(y)
        dproduct = y.mul_(g.neg_().add_(1))
        dgate[:, :, part] += torch.bmm(gate, dproduct.transpose(1, 2))
        dgate.baddbmm_(gate[:, :, part], dproduct)
    dk[:, :, part] = torch.bmm(q, dlogits.transpose(1, 2))
    dq.baddbmm_(k[:, :, part], dlogits)

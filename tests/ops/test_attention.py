"""Attention of all pixels in chunks against its naive twin, which makes a map of all pairs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from measure import live_bytes
from naive.attention import attention as plain
from rayseg.ops import attention as op
from rayseg.ops.attention import attention

MIB = 2**20
Form = Callable[..., Tensor]


def inputs(B: int, N: int, channels: Sequence[int], *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(N)
    return [torch.randn(B, c, N, dtype=dtype, generator=generator).requires_grad_() for c in channels]


def with_gradients(form: Form, tensors: Sequence[Tensor]) -> list[Tensor]:
    out = form(*tensors)
    upstream = torch.linspace(-1, 1, out.numel()).view_as(out).sin().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream)]


def gated(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    return attention(q, k, v, gate_BPN=gate)


def plain_gated(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    weights = torch.einsum("bdi,bdj->bij", q, k).softmax(-1)
    return torch.einsum("bij,bcj->bci", weights * torch.einsum("bpi,bpj->bij", gate, gate).sigmoid(), v)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small maps as large ones are."""
    monkeypatch.setattr(op, "MIN_CHUNK", 7)
    monkeypatch.setattr(op, "SMALL_PAIRS", 0)


# 7 does not divide 17, 29 and 1; it divides 14.
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("B", "N"), [(2, 17), (1, 29), (3, 14), (1, 1), (1, 5)])
@pytest.mark.parametrize("C", [3, 12])
def test_equals_the_plain_form_with_every_gradient(B: int, N: int, C: int) -> None:
    for ours, naive in zip(
        *(with_gradients(f, inputs(B, N, (4, 4, C))) for f in (attention, plain)),
        strict=True,
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)
    for ours, naive in zip(
        *(with_gradients(f, inputs(B, N, (4, 4, C, 2))) for f in (gated, plain_gated)),
        strict=True,
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("N", [300, 601])
def test_equals_the_plain_form_in_chunks_of_real_size(N: int) -> None:
    assert len(op.chunks(N)) == (1 if N == 300 else 2)
    for ours, naive in zip(
        *(with_gradients(f, inputs(1, N, (3, 3, 2, 2))) for f in (gated, plain_gated)),
        strict=True,
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("N", [9, 600])
def test_inference_equals_training(N: int) -> None:
    tensors = inputs(2, N, (4, 4, 6, 2))
    with torch.no_grad():
        alone = gated(*tensors)
    assert torch.equal(alone, gated(*tensors).detach())


def test_the_form_for_cuda_equals_the_plain_form() -> None:
    qkv = inputs(2, 15, (4, 4, 6))
    torch.testing.assert_close(op.fused_attention(*qkv), plain(*qkv), rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("small_chunks")
def test_strides_do_not_matter() -> None:
    qkv = inputs(2, 17, (4, 4, 6))
    last = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in qkv]
    for ours, naive in zip(with_gradients(attention, last), with_gradients(plain, qkv), strict=True):
        torch.testing.assert_close(ours, naive)


@pytest.mark.usefixtures("small_chunks")
def test_logits_of_thousands_are_finite() -> None:
    q, k, v = inputs(1, 17, (4, 4, 6), dtype=torch.float32)
    with torch.no_grad():
        q.mul_(1000)
    for ours, naive in zip(with_gradients(attention, (q, k, v)), with_gradients(plain, (q, k, v)), strict=True):
        assert bool(torch.isfinite(ours).all())
        torch.testing.assert_close(ours, naive, rtol=1e-3, atol=1e-2)


@pytest.mark.usefixtures("small_chunks")
def test_second_derivatives_are_refused() -> None:
    q, k, v = inputs(1, 5, (2, 2, 2))
    (dq,) = torch.autograd.grad(attention(q, k, v).sin().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dq.sum().backward()


# --- memory ---------------------------------------------------------------------------------------------------------


def test_no_map_of_all_pairs_is_alive() -> None:
    qkv = inputs(1, 2304, (64, 64, 512), dtype=torch.float32)
    one_map, all_pairs = qkv[2].nbytes, 2304**2 * 4
    for training, most, naive_least in ((False, 10 * MIB, 40 * MIB), (True, 20 * MIB, 60 * MIB)):
        lean = live_bytes(attention, qkv, training=training)
        assert lean.largest == one_map < all_pairs / 4
        assert lean.peak < most
        assert live_bytes(plain, qkv, training=training).peak > naive_least


def test_a_gate_costs_chunks_only() -> None:
    tensors = inputs(1, 2304, (16, 16, 32, 8), dtype=torch.float32)
    chunk = op.MIN_CHUNK * 2304 * 4
    watched = live_bytes(gated, tensors, training=True)
    assert watched.largest == chunk
    assert watched.peak < 6 * chunk


def test_memory_grows_with_the_map_and_not_with_its_pairs() -> None:
    small, large = (
        live_bytes(attention, inputs(1, n, (8, 8, 16), dtype=torch.float32), training=True).peak for n in (1024, 4096)
    )
    assert large < 4.2 * small


# --- mixed precision, compiling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [300, 600])
def test_bf16_autocast_keeps_large_logits_exact(N: int) -> None:
    q, k, v = inputs(2, N, (16, 16, 8), dtype=torch.float32)
    rough = [x.detach().mul(c).bfloat16().requires_grad_() for x, c in ((q, 4), (k, 4), (v, 1))]
    exact = [x.detach().float().requires_grad_() for x in rough]
    with torch.autocast("cpu", torch.bfloat16):
        ours, naive = (with_gradients(f, rough) for f in (attention, plain))
    truth = with_gradients(plain, exact)
    assert all(a.dtype == torch.bfloat16 for a in ours)

    def errors(found: list[Tensor]) -> list[float]:
        return [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]

    assert max(errors(ours)) < 0.03
    assert errors(ours)[0] < 0.1 * errors(naive)[0]  # whose logits, of up to hundreds, are bfloat16


class Attend(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        return attention(q, k, v, gate_BPN=gate)


@pytest.mark.usefixtures("small_chunks")
def test_compiles_as_one_graph_with_its_gradients() -> None:
    torch._dynamo.reset()
    tensors = inputs(1, 9, (2, 2, 3, 2))
    compiled = torch.compile(Attend(), fullgraph=True, backend="aot_eager")
    for ours, eager in zip(with_gradients(compiled, tensors), with_gradients(Attend(), tensors), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.usefixtures("small_chunks")
def test_exports_to_a_file() -> None:
    tensors = tuple(inputs(2, 17, (4, 4, 6, 3)))
    file = io.BytesIO()
    torch.export.save(torch.export.export(Attend(), tensors), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*tensors), Attend()(*tensors))

"""Criss-cross attention against a loop over pixels and its naive twin, the pixels it reads, and its memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from measure import live_bytes
from naive.criss_cross import criss_cross as naive
from rayseg.ops.criss_cross import criss_cross

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
SIZES = [(2, 3, 4), (1, 5, 3), (3, 2, 2), (2, 1, 4), (2, 4, 1), (1, 1, 1)]


def maps(B: int, D: int, C: int, H: int, W: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(B, c, H, W, dtype=dtype, generator=generator, requires_grad=True) for c in (D, D, C))


def looped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition: each pixel's cross, listed."""
    B, _, H, W = q.shape
    out = torch.empty_like(v)
    for b in range(B):
        for y in range(H):
            for x in range(W):
                cross = [(y, j) for j in range(W)] + [(i, x) for i in range(H) if i != y]
                keys = torch.stack([k[b, :, i, j] for i, j in cross])
                values = torch.stack([v[b, :, i, j] for i, j in cross])
                out[b, :, y, x] = (keys @ q[b, :, y, x]).softmax(0) @ values
    return out


def with_gradients(attention: Attention, qkv: tuple[Tensor, ...]) -> list[Tensor]:
    out = attention(*qkv)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).sin()
    return [out.detach(), *torch.autograd.grad(out, qkv, upstream)]


@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
def test_equals_the_loop_and_the_naive_form(batch: int, height: int, width: int) -> None:
    qkv = maps(batch, 3, 5, height, width)
    for ours, theirs, listed in zip(
        with_gradients(criss_cross, qkv), with_gradients(naive, qkv), with_gradients(looped, qkv), strict=True
    ):
        torch.testing.assert_close(ours, listed, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_equals_the_naive_form_on_larger_maps() -> None:
    qkv = maps(2, 8, 16, 23, 31)
    for ours, theirs in zip(with_gradients(criss_cross, qkv), with_gradients(naive, qkv), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_pixel_reads_its_cross_once_and_nothing_else() -> None:
    q, k, v = (x.detach() for x in maps(1, 2, 1, 5, 7))
    k.zero_()  # equal logits: the result is the mean over the cross
    v.zero_()[0, 0, 2, 3] = 11.0  # 5 + 7 - 1 pixels are in a cross
    expected = torch.zeros(5, 7, dtype=torch.float64)
    expected[2, :] = expected[:, 3] = 1.0
    torch.testing.assert_close(criss_cross(q, k, v)[0, 0], expected)


def test_rows_and_columns_may_be_permuted_and_exchanged() -> None:
    qkv = [x.detach() for x in maps(2, 3, 4, 5, 6)]
    out = criss_cross(*qkv)
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    moved = criss_cross(*(x[:, :, rows][..., columns] for x in qkv))
    torch.testing.assert_close(moved, out[:, :, rows][..., columns])
    torch.testing.assert_close(criss_cross(*(x.mT for x in qkv)), out.mT)


def test_channels_last_maps_give_the_same() -> None:
    qkv = maps(2, 8, 8, 6, 5)
    last = [x.detach().to(memory_format=torch.channels_last) for x in qkv]
    torch.testing.assert_close(criss_cross(*last), criss_cross(*qkv).detach())


def test_bf16_autocast_is_close_to_float32() -> None:
    qkv = maps(2, 16, 16, 12, 20, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = with_gradients(criss_cross, qkv)
    for a, b in zip(rough, with_gradients(criss_cross, qkv), strict=True):
        assert bool(torch.isfinite(a).all())
        assert (a.float() - b).norm() < 0.01 * b.norm()


def test_bf16_maps_give_logits_of_float32() -> None:
    q, k, v = (x.detach().bfloat16() for x in maps(1, 64, 16, 12, 20))
    q, k = 3 * q, 3 * k  # logits of 70, where bfloat16 steps by a half
    with torch.autocast("cpu", torch.bfloat16):
        rough = criss_cross(q, k, v)
    exact = criss_cross(q.double(), k.double(), v.double())
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.01 * exact.norm()


def test_batches_of_different_length_are_refused() -> None:
    q, k, v = maps(2, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="shorter"):
        criss_cross(q, k, v[:1])


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_weights_are_kept_for_crosses_and_not_for_all_pairs(training: bool) -> None:
    qkv = maps(2, 4, 4, 40, 40, dtype=torch.float32)
    one_image = 40 * 40 * (40 + 40) * 4
    watched = live_bytes(criss_cross, qkv, training=training)
    assert watched.largest <= one_image
    assert watched.peak < 6 * one_image < 40**4 * 4  # one matrix of all pairs


def test_intermediate_copies_do_not_grow_with_the_batch() -> None:
    def peak(batch: int) -> int:
        return live_bytes(criss_cross, maps(batch, 8, 64, 24, 24, dtype=torch.float32), training=False).peak

    inputs_and_two_results = 24 * 24 * (8 + 8 + 64 + 2 * 64) * 4  # an image's result, and where results are stacked
    assert peak(8) - peak(2) <= 6 * inputs_and_two_results


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_takes_less_than_the_naive_form(training: bool) -> None:
    qkv = maps(4, 16, 128, 48, 48, dtype=torch.float32)  # the paper's ratio of channels
    ours, theirs = (live_bytes(form, qkv, training=training).peak for form in (criss_cross, naive))
    assert theirs > 1.4 * ours

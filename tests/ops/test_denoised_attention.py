"""Denoised attention against its naive twin, which makes, rectifies and smooths a map of all pairs."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from measure import live_bytes
from naive.denoised_attention import denoised_attention as naive
from rayseg.ops import attention as attention_op
from rayseg.ops import denoised_attention as op
from rayseg.ops.denoised_attention import denoised_attention

MIB = 2**20
Form = Callable[..., Tensor]
SIZES = [(2, 5, 7), (1, 9, 4), (1, 1, 1), (1, 2, 1), (1, 1, 6), (1, 3, 3)]
every_block = pytest.mark.parametrize(("rectify", "kernel_size"), list(itertools.product([False, True], [None, 3, 5])))


def maps(B: int, H: int, W: int, *, channels: Sequence[int] = (4, 4, 6, 3), dtype: Any = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(H * W)
    return [torch.randn(B, c, H, W, dtype=dtype, generator=generator).requires_grad_() for c in channels]


def form_of(attend: Form, *, rectify: bool, kernel_size: int | None) -> Form:
    """Make a form of three maps, or of four where attention is rectified."""
    if not rectify:
        return functools.partial(attend, kernel_size=kernel_size)
    return lambda q, k, v, classes: attend(q, k, v, classes=classes, kernel_size=kernel_size)


def with_gradients(form: Form, tensors: Sequence[Tensor]) -> list[Tensor]:
    out = form(*tensors)
    upstream = torch.linspace(-1, 1, out.numel()).view_as(out).sin().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small maps as large ones are: 8 pixels at a time, and 4 of 6 channels of a map of 9."""
    monkeypatch.setattr(attention_op, "MIN_CHUNK", 8)
    monkeypatch.setattr(attention_op, "SMALL_PAIRS", 0)
    monkeypatch.setattr(op, "CACHED", 36)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("B", "H", "W"), SIZES)
@every_block
def test_equals_the_naive_form_with_every_gradient(
    B: int, H: int, W: int, rectify: bool, kernel_size: int | None
) -> None:
    tensors = maps(B, H, W)[: 4 if rectify else 3]
    lean, plain = (
        with_gradients(form_of(f, rectify=rectify, kernel_size=kernel_size), tensors)
        for f in (denoised_attention, naive)
    )
    for ours, expected in zip(lean, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_equal_logits_count_the_window() -> None:
    q, k, v = (x.detach() for x in maps(1, 4, 5)[:3])
    out = denoised_attention(q * 0, k * 0, v, kernel_size=3)
    rows, columns = torch.tensor([2, 3, 3, 2]), torch.tensor([2, 3, 3, 3, 2])
    times = (rows[:, None] * columns).double()  # how many windows each key is in
    # A is 1/20, S is 1/2: every query gets half of each value, as often as it is in a window
    torch.testing.assert_close(out, (0.5 / 20 * times * v).sum((2, 3), keepdim=True).expand_as(out))


def test_rectifying_halves_what_another_class_gives() -> None:
    q, k, v = (x.detach() for x in maps(1, 4, 5)[:3])
    classes = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    classes[:, 0, :, :2] = classes[:, 1, :, 2:] = 100.0
    out = denoised_attention(q * 0, k * 0, v, classes=classes)
    left, right = v[..., :2].sum((2, 3)) / 20, v[..., 2:].sum((2, 3)) / 20
    torch.testing.assert_close(out[..., 0, 0], left + right / 2)
    torch.testing.assert_close(out[..., 3, 4], left / 2 + right)


@pytest.mark.parametrize("axis", [2, 3])
def test_mirrored_maps_give_the_mirrored_result(axis: int) -> None:
    tensors = maps(1, 5, 7)
    form = form_of(denoised_attention, rectify=True, kernel_size=3)
    torch.testing.assert_close(form(*(x.flip(axis) for x in tensors)), form(*tensors).flip(axis))


def test_neither_block_is_plain_attention() -> None:
    q, k, v, _ = maps(2, 5, 7)
    expected = attention_op.attention(*(x.flatten(2) for x in (q, k, v))).view_as(v)
    assert torch.equal(denoised_attention(q, k, v), expected)


@pytest.mark.parametrize("kernel_size", [0, 2, -1])
def test_a_window_without_centre_is_refused(kernel_size: int) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        denoised_attention(*maps(1, 3, 3)[:3], kernel_size=kernel_size)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_peaks_at_the_papers_size() -> None:
    tensors = maps(1, 48, 48, channels=(64, 64, 512, 19), dtype=torch.float32)
    lean = form_of(denoised_attention, rectify=True, kernel_size=3)
    one_map = tensors[2].nbytes
    for training, most in ((False, 15 * MIB), (True, 28 * MIB)):  # naive: 425 and 617
        watched = live_bytes(lean, tensors, training=training)
        assert watched.largest == one_map
        assert watched.peak < most


def test_the_naive_form_keeps_what_the_paper_measured() -> None:
    tensors = maps(1, 48, 48, channels=(64, 64, 512, 19), dtype=torch.float32)
    watched = live_bytes(form_of(naive, rectify=True, kernel_size=3), tensors, training=False)
    assert watched.peak / 1e6 == pytest.approx(428, rel=0.05)  # Table V


# --- mixed precision, compiling -------------------------------------------------------------------------------------


def test_bf16_autocast_is_close_to_float32() -> None:
    tensors = maps(1, 24, 25, channels=(16, 16, 32, 5), dtype=torch.float32)
    form = form_of(denoised_attention, rectify=True, kernel_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        rough = with_gradients(form, [x.detach().bfloat16().requires_grad_() for x in tensors])
    for ours, exact in zip(rough, with_gradients(form, tensors), strict=True):
        assert bool(torch.isfinite(ours).all())
        assert (ours.float() - exact).norm() < 0.02 * exact.norm()


class Attend(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, classes: Tensor) -> Tensor:
        return denoised_attention(q, k, v, classes=classes, kernel_size=3)


@pytest.mark.usefixtures("small_chunks")
def test_compiles_as_one_graph_with_its_gradients() -> None:
    torch._dynamo.reset()
    tensors = maps(1, 2, 5, channels=(2, 2, 3, 2))
    compiled = torch.compile(Attend(), fullgraph=True, backend="aot_eager")
    for ours, eager in zip(with_gradients(compiled, tensors), with_gradients(Attend(), tensors), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.usefixtures("small_chunks")
def test_exports_to_a_file() -> None:
    tensors = tuple(maps(1, 3, 4))
    file = io.BytesIO()
    torch.export.save(torch.export.export(Attend(), tensors), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*tensors), Attend()(*tensors))

"""Local attention against its naive twin: unfolded keys and values, a softmax over the taps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from measure import live_bytes
from naive.local_attention import local_attention as unfolded
from rayseg.ops.local_attention import BAND_PX, DENSE_PX, by_sub_grids, local_attention

Attention = Callable[..., Tensor]


def maps(
    B: int, D: int, C: int, H: int, W: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, c, H, W, dtype=dtype, generator=generator, requires_grad=True) for c in (D, D, C))


def with_gradients(attention: Attention, qkv: tuple[Tensor, ...], window: dict[str, int]) -> list[Tensor]:
    out = attention(*qkv, **window)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).sin()
    return [out.detach(), *torch.autograd.grad(out, qkv, upstream)]


LARGE = DENSE_PX + 3  # a sub-grid of this many pixels is tiled, smaller ones are dense
SIZES = [(2, 13, 17), (1, 7, 9), (1, 3, 2), (1, 1, 1), (1, LARGE, 2 * LARGE)]


@pytest.mark.parametrize("form", [local_attention, by_sub_grids])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3, 6])
@pytest.mark.parametrize(("batch", "height", "width"), [*SIZES, (1, 3, BAND_PX // 2 + 1)])
def test_equals_the_unfolded_form(
    form: Attention, kernel_size: int, dilation: int, batch: int, height: int, width: int
) -> None:
    window = {"kernel_size": kernel_size, "dilation": dilation}
    qkv = maps(batch, 4, 6, height, width)
    for ours, naive in zip(with_gradients(form, qkv, window), with_gradients(unfolded, qkv, window), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)


def test_bands_equal_the_unfolded_form() -> None:
    window = {"kernel_size": 5, "dilation": 7}
    qkv = maps(2, 3, 2, 2 * BAND_PX // 60 + 5, 60)  # three bands, the last one short
    for ours, naive in zip(
        with_gradients(local_attention, qkv, window), with_gradients(unfolded, qkv, window), strict=True
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)


def test_inference_equals_training() -> None:
    qkv = maps(1, 4, 6, 20, 30)
    with torch.no_grad():
        assert torch.equal(
            local_attention(*qkv, kernel_size=5, dilation=2),
            local_attention(*(x.requires_grad_() for x in qkv), kernel_size=5, dilation=2),
        )


def test_exported_graphs_hold_no_taps() -> None:
    class Attend(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return local_attention(q, k, v, kernel_size=5, dilation=2)

    qkv = tuple(x.detach() for x in maps(1, 4, 6, 20, 30, dtype=torch.float32))
    graph = torch.export.export(Attend(), qkv)
    names = [str(node.target) for node in graph.graph.nodes]
    assert any("scaled_dot_product_attention" in name for name in names)
    assert not any("addcmul" in name for name in names)
    torch.testing.assert_close(graph.module()(*qkv), local_attention(*qkv, kernel_size=5, dilation=2))


def test_tiles_at_large_dilated_maps_equal_the_unfolded_form() -> None:
    window = {"kernel_size": 5, "dilation": 3}
    qkv = maps(1, 3, 2, 3 * LARGE + 1, 3 * LARGE - 2)
    for ours, naive in zip(
        with_gradients(by_sub_grids, qkv, window), with_gradients(unfolded, qkv, window), strict=True
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-13)


def test_a_pixel_reads_its_window_and_nothing_else() -> None:
    q, k, v = (x.detach() for x in maps(1, 4, 1, 15, 15))
    k.zero_()  # equal logits: the result is the mean over all k * k taps, outside ones counting as 0
    v.zero_()[0, 0, 7, 7] = 25.0
    out = local_attention(q, k, v, kernel_size=5, dilation=3)[0, 0]
    reached = {(7 + 3 * a, 7 + 3 * b) for a in range(-2, 3) for b in range(-2, 3)}
    for y in range(15):
        for x in range(15):
            assert out[y, x].item() == pytest.approx(1.0 if (y, x) in reached else 0.0)


def test_taps_outside_stay_in_the_denominator() -> None:
    q, k, v = (torch.ones(1, 1, 9, 9) for _ in range(3))
    corner = local_attention(q, k.mul_(0), v, kernel_size=3, dilation=4)[0, 0, 0, 0]
    assert corner.item() == pytest.approx(4 / 9)  # 4 of 9 taps inside


def test_channels_last_maps_give_the_same() -> None:
    qkv = maps(2, 8, 8, 12, 10)
    last = [x.detach().to(memory_format=torch.channels_last) for x in qkv]
    window = {"kernel_size": 5, "dilation": 2}
    torch.testing.assert_close(local_attention(*last, **window), local_attention(*qkv, **window).detach())


@pytest.mark.parametrize("form", [local_attention, by_sub_grids])
@pytest.mark.parametrize("height", [20, 3 * LARGE])
def test_bf16_autocast_is_close_to_float32(form: Attention, height: int) -> None:
    qkv = maps(1, 16, 16, height, 20, dtype=torch.float32)
    window = {"kernel_size": 3, "dilation": 2}
    with torch.autocast("cpu", torch.bfloat16):
        rough = with_gradients(form, qkv, window)
    for a, b in zip(rough, with_gradients(form, qkv, window), strict=True):
        assert (a.float() - b).norm() < 0.03 * b.norm()


def test_bf16_maps_give_bf16_close_to_float32() -> None:
    qkv = maps(2, 16, 16, 40, 60, dtype=torch.float32)
    window = {"kernel_size": 7, "dilation": 2}
    halves = tuple(x.detach().bfloat16().requires_grad_() for x in qkv)
    for rough, exact in zip(
        with_gradients(local_attention, halves, window), with_gradients(unfolded, qkv, window), strict=True
    ):
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("kernel_size", "dilation"), [(4, 1), (0, 1), (3, 0)])
def test_a_window_without_centre_is_refused(kernel_size: int, dilation: int) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        local_attention(*maps(1, 1, 1, 4, 4), kernel_size=kernel_size, dilation=dilation)


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_bytes(attention: Attention, qkv: tuple[Tensor, ...], window: dict[str, int]) -> int:
    return live_bytes(functools.partial(attention, **window), qkv, training=True).peak


def test_training_keeps_a_few_maps_where_the_unfolded_form_keeps_a_window_of_maps() -> None:
    for window in ({"kernel_size": 5, "dilation": 6}, {"kernel_size": 7, "dilation": 1}):
        qkv = maps(1, 64, 64, 49, 49, dtype=torch.float32)
        one_map = qkv[0].nbytes
        assert peak_bytes(local_attention, qkv, window) < 10 * one_map
        assert peak_bytes(by_sub_grids, qkv, window) < 25 * one_map
        assert peak_bytes(unfolded, qkv, window) > 2 * window["kernel_size"] ** 2 * one_map


def test_peak_at_the_papers_size() -> None:
    qkv = maps(1, 64, 512, 97, 97, dtype=torch.float32)
    assert peak_bytes(local_attention, qkv, {"kernel_size": 5, "dilation": 6}) < 50e6  # unfolded: 1507e6


def test_inference_keeps_no_more_than_two_maps() -> None:
    qkv = tuple(x.detach() for x in maps(1, 64, 64, 97, 97, dtype=torch.float32))
    form = functools.partial(local_attention, kernel_size=5, dilation=6)
    assert live_bytes(form, qkv, training=False).peak < 4 * qkv[0].nbytes  # two maps and 2 x 25 numbers a pixel

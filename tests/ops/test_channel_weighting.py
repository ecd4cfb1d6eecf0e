"""Distance guided channel weighting against its naive twin: all pairs' vectors, as the paper writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import AotEagerAndRecordGraphs
from torch.utils.flop_counter import FlopCounterMode

from measure import MIB, live_bytes
from naive.channel_weighting import dgcw as naive
from rayseg.ops.channel_weighting import CACHE_BYTES, Weighting, dgcw

WEIGHTINGS: list[Weighting] = ["dbs", "softmax", "tanh"]
Widths = tuple[int, int, int]  # C, D, E: channels, those between the convolutions, those that come out

every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def operands(
    batch: int, height: int, width: int, *, widths: Widths = (6, 5, 4), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Draw q, k, v, w1, b1, w2, b2."""
    generator = torch.Generator().manual_seed(0)
    C, D, E = widths
    shapes = [*[(batch, C, height, width)] * 3, (D, C), (D,), (E, D), (E,)]
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


def with_gradients(form: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    out = form(*inputs)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out).sin()
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Compare results and gradients; where terms cancel, relative to the tensor's largest value."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(b.abs().max()))


# --- values ---------------------------------------------------------------------------------------------------------


@every_weighting
@pytest.mark.parametrize("rows", [1, 4, 10**6])
@pytest.mark.parametrize(("batch", "height", "width"), [(2, 5, 7), (1, 3, 2), (2, 1, 1), (1, 9, 11)])
def test_equals_the_naive_form(weighting: Weighting, rows: int, batch: int, height: int, width: int) -> None:
    inputs = operands(batch, height, width)
    chunk_bytes = rows * max(height * width, 5) * 6 * 8  # 4 rows divide no N here
    ours = with_gradients(lambda *x: dgcw(*x, weighting=weighting, chunk_bytes=chunk_bytes), inputs)
    assert_equal(ours, with_gradients(lambda *x: naive(*x, weighting=weighting), inputs))


@every_weighting
@pytest.mark.parametrize("widths", [(3, 7, 2), (8, 1, 8), (1, 4, 1)])
def test_other_widths_equal_the_naive_form(weighting: Weighting, widths: Widths) -> None:
    inputs = operands(1, 4, 5, widths=widths)
    ours = with_gradients(lambda *x: dgcw(*x, weighting=weighting, chunk_bytes=999), inputs)
    assert_equal(ours, with_gradients(lambda *x: naive(*x, weighting=weighting), inputs))


def test_channels_last_maps_give_the_same() -> None:
    inputs = operands(2, 4, 6)
    last = [x.detach().to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    torch.testing.assert_close(dgcw(*last), dgcw(*inputs), rtol=1e-12, atol=1e-12)


@every_weighting
@pytest.mark.parametrize("axis", [2, 3])
def test_flipping_the_maps_flips_the_result(weighting: Weighting, axis: int) -> None:
    maps, convolutions = operands(1, 5, 6)[:3], operands(1, 5, 6)[3:]
    flipped = dgcw(*(x.flip(axis) for x in maps), *convolutions, weighting=weighting, chunk_bytes=2000)
    torch.testing.assert_close(flipped.flip(axis), dgcw(*maps, *convolutions, weighting=weighting))


def test_a_pixel_whose_channels_all_agree_has_weights_of_zero() -> None:
    """Where Q_i = K_j on all channels, DBS is 0 / 0 but for eps: each relation is `last(relu(b1))`."""
    q, _, v, w1, b1, w2, b2 = operands(1, 3, 4)
    same = torch.ones_like(q).requires_grad_()
    inputs = [same, same.detach().clone().requires_grad_(), v, w1, b1, w2, b2]
    out, *gradients = with_gradients(dgcw, inputs)
    expected = 12 * (b1.relu() @ w2.T + b2)
    torch.testing.assert_close(out, expected.detach().view(1, -1, 1, 1).expand_as(out))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert not gradients[0].any()


def test_one_equal_pair_among_others_is_exact() -> None:
    q, k, *rest = operands(1, 3, 4)
    k = k.detach().clone()
    k[..., 1, 2] = q[..., 0, 0].detach()
    inputs = [q, k.requires_grad_(), *rest]
    assert_equal(with_gradients(dgcw, inputs), with_gradients(naive, inputs))


def test_second_derivatives_are_refused() -> None:
    inputs = operands(1, 2, 3)
    (first,) = torch.autograd.grad(dgcw(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_unknown_weightings_are_refused() -> None:
    with pytest.raises(ValueError, match="none of dbs, softmax, tanh"):
        dgcw(*operands(1, 2, 2), weighting="sigmoid")  # type: ignore[arg-type]


# --- precision ------------------------------------------------------------------------------------------------------


def distances(gap: float) -> list[Tensor]:
    """Give operands whose queries lie `gap` beside the keys, with values that bfloat16 holds."""
    inputs = [x.detach() for x in operands(1, 6, 6, widths=(16, 16, 16), dtype=torch.float32)]
    inputs[0] = inputs[1] + gap * (1 + inputs[0].sigmoid())
    return [x.bfloat16().float().requires_grad_() for x in inputs]


@every_weighting
def test_bf16_autocast_is_close_to_float32(weighting: Weighting) -> None:
    inputs = distances(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = with_gradients(lambda *x: dgcw(*x, weighting=weighting), inputs)
    for a, b in zip(rough, with_gradients(lambda *x: dgcw(*x, weighting=weighting), inputs), strict=True):
        assert (a.float() - b).norm() < 0.01 * b.norm()


def test_autocast_leaves_the_sums_in_float32() -> None:
    """Without the last convolution's own rounding (identity, no bias) nothing is lost, forward or backward."""
    inputs = distances(1.0)
    inputs[5:] = [torch.eye(16), torch.zeros(16)]
    upstream = torch.randn(1, 16, 6, 6).bfloat16()
    expected = torch.autograd.grad(dgcw(*inputs), inputs[:5], upstream.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = dgcw(*inputs)
        gradients = torch.autograd.grad(out, inputs[:5], upstream)
    torch.testing.assert_close(out, dgcw(*inputs).bfloat16())
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gap", [0.01, 300.0])
def test_half_maps_at_close_and_far_distances(dtype: torch.dtype, gap: float) -> None:
    """300^2 is beyond float16, and keys 0.01 from their queries leave few digits to |Q|^2 - 2 Q.K + |K|^2."""
    half = [x.detach().to(dtype) for x in distances(gap)]
    exact = naive(*(x.double() for x in half))
    out = dgcw(*half)
    assert out.dtype == dtype
    assert (out.double() - exact).norm() < 0.01 * exact.norm()


# --- cost -----------------------------------------------------------------------------------------------------------

PAPER: Widths = (128, 128, 128)


def test_memory_at_the_papers_size() -> None:
    """A 769 px crop: N = 25 x 25. The naive form has 1337 MiB alive in training, 763 in inference."""
    inputs = operands(1, 25, 25, widths=PAPER, dtype=torch.float32)
    training = live_bytes(dgcw, inputs, training=True)
    inference = live_bytes(dgcw, inputs, training=False)
    assert training.peak < 6.5 * MIB
    assert inference.peak < 4 * MIB
    assert max(training.largest, inference.largest) <= CACHE_BYTES


@every_weighting
def test_memory_grows_with_the_map_and_not_with_its_pairs(weighting: Weighting) -> None:
    def peak(form: Callable[..., Tensor], side: int, *, training: bool, batch: int = 1) -> int:
        inputs = operands(batch, side, side, widths=(16, 16, 16), dtype=torch.float32)
        return live_bytes(lambda *x: form(*x, weighting=weighting), inputs, training=training).peak

    def lean(*x: Tensor, weighting: Weighting) -> Tensor:
        return dgcw(*x, weighting=weighting, chunk_bytes=2**13)

    for training in (False, True):
        assert peak(naive, 16, training=training) > 14 * peak(naive, 8, training=training)
        assert peak(lean, 16, training=training) < 4.5 * peak(lean, 8, training=training)
        assert peak(lean, 8, training=training, batch=2) < 2 * peak(lean, 8, training=training)


def test_chunks_are_as_large_as_asked_and_at_least_a_pixels() -> None:
    inputs = operands(1, 16, 16, widths=(16, 16, 16), dtype=torch.float32)
    row = 256 * 16 * 4
    for chunk_bytes, largest in [(1, row), (5 * row, 5 * row), (5 * row + row // 2, 5 * row)]:
        seen = live_bytes(lambda *x, limit=chunk_bytes: dgcw(*x, chunk_bytes=limit), inputs, training=True)
        assert seen.largest == largest


def test_multiply_adds_are_half_of_the_papers() -> None:
    """Both convolutions on all pairs: 2 N^2 C^2, and three times that to train. Here one, and one to compute anew."""
    N, C = 15, 32
    inputs = operands(1, 3, 5, widths=(C, C, C), dtype=torch.float32)

    def macs(form: Callable[..., Tensor], *, training: bool) -> int:
        with FlopCounterMode(display=False) as counter:
            out = form(*inputs)
            if training:
                torch.autograd.grad(out.sum(), inputs)
        return counter.get_total_flops() // 2

    assert macs(naive, training=False) == 2 * N**2 * C**2
    assert macs(naive, training=True) == 6 * N**2 * C**2
    assert macs(dgcw, training=False) == N**2 * C**2 + N**2 * C + N * C**2
    assert macs(dgcw, training=True) == 4 * N**2 * C**2 + 2 * N**2 * C + 3 * N * C**2


# --- compilers ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd")  # torch's own recording backend
def test_a_compiler_sees_one_operation_each_way() -> None:
    graphs = AotEagerAndRecordGraphs()
    inputs = operands(1, 6, 7)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: dgcw(*x, chunk_bytes=999), fullgraph=True, backend=graphs)
    assert_equal(with_gradients(compiled, inputs), with_gradients(naive, inputs))
    for seen, name in [(graphs.fw_graphs, "relation_sums"), (graphs.bw_graphs, "relation_gradients")]:
        (graph,) = seen
        assert [str(n.target) for n in graph.graph.nodes].count(f"rayseg.{name}.default") == 1
        assert len(graph.graph.nodes) < 50  # there are 42 chunks


class Operation(torch.nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return dgcw(*inputs, chunk_bytes=999)


def test_it_can_be_exported() -> None:
    inputs = tuple(x.detach() for x in operands(1, 6, 7))
    program = torch.export.export(Operation(), inputs)
    other = tuple(x + 1 for x in inputs)
    torch.testing.assert_close(program.module()(*other), naive(*other), rtol=1e-12, atol=1e-12)

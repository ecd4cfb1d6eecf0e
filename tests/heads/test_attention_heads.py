"""CCNet, DANet, OCNet and DRANet: published sizes, formulas written out, symmetries, options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_context_modules import wake
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from measure import live_bytes
from naive.criss_cross import criss_cross
from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads.ccnet import CrissCross
from rayseg.heads.danet import ChannelAttention
from rayseg.heads.dranet import CompactChannel, CompactPosition, GatedDetail, likeness
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.heads.ocnet import ObjectContext

NAMES = ["ccnet", "danet", "ocnet", "dranet"]
SPEC = FeatureSpec((8, 12, 20, 32), (4, 8, 8, 8))


def head(name: str, **options: Any) -> heads.SegmentationHead:
    return heads.build(heads.from_dict({"name": name, "channels": 16, **options}), SPEC, 3)


def features(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(14, 18), (7, 9), (7, 9), (7, 9)]
    return [torch.randn(2, c, *s, dtype=dtype, generator=generator) for c, s in zip(SPEC.channels, sizes, strict=True)]


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- sizes ----------------------------------------------------------------------------------------------------------


def conv(i: int, o: int, k: int = 1, *, bias: int = 1) -> int:
    return i * o * k * k + bias * o


def cbr(i: int, o: int, k: int = 1) -> int:
    return conv(i, o, k, bias=0) + 2 * o


OCNET = cbr(2048, 512, 3) + cbr(512, 256) + conv(512, 256) + conv(256, 512) + cbr(1024, 512) + conv(512, 19)
COMPACT = 2 * (cbr(2048, 512, 3) + cbr(512, 512, 3)) + cbr(1024, 256, 3) + conv(256, 19)  # around CPAM and CCAM
COMPACT += 4 * cbr(512, 512) + 2 * conv(512, 128) + conv(512, 512) + 1 + cbr(512, 32) + 1
DETAIL = cbr(256, 32, 3) + conv(288, 1) + 1 + cbr(288, 256, 3) + cbr(256, 256, 3)
RESNET101S = 42_623_936


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ccnet", {}, 66_558_036),  # published: 66.5 M
        ("danet", {}, 66_578_555),  # published: 66.6 M
        ("ocnet", {}, RESNET101S + OCNET),
        ("dranet", {}, RESNET101S + COMPACT + DETAIL),
        ("dranet", {"decoder": False}, RESNET101S + COMPACT),
    ],
)
def test_parameters_on_resnet101s(name: str, options: dict[str, Any], expected: int) -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name="resnet101s"),
        head=heads.from_dict({"name": name, **options}),
        num_classes=19,
        auxiliary=False,
    )
    assert params(segmenter.skeleton(config)) == expected


def gflops(*modules: nn.Module) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        for module in modules:
            module.to("meta")(torch.empty(1, 512, 48, 48))
    return counter.get_total_flops() / 1e9


def test_gflops_of_the_denoised_nl_papers_table_5() -> None:
    assert gflops(CrissCross(512, recurrence=1)) == pytest.approx(1.77, rel=5e-3)
    assert gflops(NonLocal(512), ChannelAttention()) == pytest.approx(10.04, rel=2e-3)
    compact = gflops(CompactPosition(512, norm="batch"), CompactChannel(512, norm="batch"))
    assert compact == pytest.approx(0.76, rel=0.035)
    pixels, cells, c = 48 * 48, 50, 512
    position = (pixels + cells) * c * c // 4 + 2 * cells * c * c + pixels * cells * (c // 4 + c)
    channel = 3 * pixels * c * c // 16
    assert compact == pytest.approx(2 * (position + channel) / 1e9, rel=1e-9)


def test_a_second_recurrence_costs_as_much_again_and_no_parameters() -> None:
    once, twice = CrissCross(512, recurrence=1), CrissCross(512, recurrence=2)
    assert gflops(twice) == pytest.approx(2 * gflops(once))
    assert params(once) == params(twice)


# --- formulas -------------------------------------------------------------------------------------------------------


def equal(block: nn.Module, formula: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare outputs, and the gradients of the input and of every parameter."""
    x.requires_grad_()
    inputs = [x, *block.parameters()]
    ours, expected = block(x), formula(x)
    upstream = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours).sin()
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_criss_cross_is_repeated_with_the_same_weights(recurrence: int) -> None:
    block = wake(CrissCross(16, recurrence=recurrence)).double()

    def formula(x: Tensor) -> Tensor:
        for _ in range(recurrence):
            x = block.gamma * criss_cross(block.query(x), block.key(x), block.value(x)) + x
        return x

    equal(block, formula, pixels(2, 16, 5, 7))


def test_two_recurrences_reach_every_pixel_and_one_a_cross() -> None:
    for recurrence, reached in ((1, 5 + 7 - 1), (2, 5 * 7)):
        block = wake(CrissCross(8, recurrence=recurrence)).double()
        x = pixels(1, 8, 5, 7).requires_grad_()
        (gradient,) = torch.autograd.grad(block(x)[0, :, 2, 3].sum(), x)
        assert int((gradient.abs().sum(1) > 0).sum()) == reached


def test_channel_attention_prefers_the_least_alike() -> None:
    block = wake(ChannelAttention()).double()

    def formula(x: Tensor) -> Tensor:
        energy = torch.einsum("bihw,bjhw->bij", x, x)
        weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
        return x + block.gamma * torch.einsum("bij,bjhw->bihw", weights, x)

    equal(block, formula, 0.3 * pixels(2, 6, 4, 5))


def test_compact_position_attention_is_written_out() -> None:
    block = wake(CompactPosition(16, norm="batch")).double()

    def formula(x: Tensor) -> Tensor:
        centres = []
        for cells, level in zip((1, 2, 3, 6), block.levels, strict=True):
            means = x.unflatten(2, (cells, -1)).unflatten(4, (cells, -1)).mean((3, 5))
            centres.append(level[1:](means).flatten(2))
        centre_BCM = torch.cat(centres, 2)
        key = torch.einsum("dc,bcm->bdm", block.key.weight, centre_BCM) + block.key.bias[:, None]
        value = torch.einsum("dc,bcm->bdm", block.value.weight, centre_BCM) + block.value.bias[:, None]
        weights = torch.einsum("bdhw,bdm->bhwm", block.query(x), key).softmax(-1)
        assert weights.shape[-1] == 50
        return x + block.gamma * torch.einsum("bhwm,bcm->bchw", weights, value)

    equal(block, formula, pixels(2, 16, 6, 12))


def test_compact_channel_attention_is_written_out() -> None:
    block = wake(CompactChannel(32, norm="batch")).double()

    def formula(x: Tensor) -> Tensor:
        centres = block.centres(x)
        assert centres.shape[1] == 2
        weights = (-torch.einsum("bchw,bkhw->bck", x, centres)).softmax(-1)
        return x + block.attention.gamma * torch.einsum("bck,bkhw->bchw", weights, centres)

    equal(block, formula, 0.3 * pixels(2, 32, 4, 5))


def test_object_context_is_scaled_attention_with_shared_queries_and_keys() -> None:
    block = wake(ObjectContext(16, norm="batch")).double()

    def formula(x: Tensor) -> Tensor:
        key = block.key(x).flatten(2)
        weights = (torch.einsum("bci,bcj->bij", key, key) / 8**0.5).softmax(-1)
        context = torch.einsum("bij,bcj->bci", weights, block.value(x).flatten(2)).unflatten(2, x.shape[2:])
        return block.fuse(torch.cat([block.expand(context), x], 1))

    equal(block, formula, pixels(2, 16, 4, 5))


def test_gated_detail_is_written_out() -> None:
    block = wake(GatedDetail(8, 16, norm="batch")).double()
    low, context = pixels(2, 8, 9, 11), pixels(2, 16, 5, 6)
    up = functional.interpolate(context, size=(9, 11), mode="bilinear")
    detail = block.reduce(low)
    gate = block.gate[0](torch.cat([detail, up], 1)).sigmoid()
    assert gate.shape == (2, 1, 9, 11)
    expected = block.refine(block.fuse(torch.cat([block.gamma * gate * detail, up], 1)))
    torch.testing.assert_close(block(low, context), expected)


# --- layouts --------------------------------------------------------------------------------------------------------


def test_layouts_are_written_out() -> None:
    given = features()
    low, x = given[0], given[-1]
    nets: dict[str, Any] = {name: wake(head(name)).double() for name in NAMES}
    cc, da, oc, dra = (nets[name] for name in NAMES)
    y = cc.layers.refine(cc.layers.context(cc.layers.reduce(x)))
    expected = {"ccnet": cc.classify(cc.layers.fuse(torch.cat([x, y], 1)))}
    position = da.position.refine(da.position.attention(da.position.reduce(x)))
    channel = da.channel.refine(da.channel.attention(da.channel.reduce(x)))
    expected["danet"] = da.classify[1](position + channel)
    reduce, context, _, classify = oc.layers
    expected["ocnet"] = classify(context(reduce(x)))
    expected["dranet"] = dra.classify(dra.decoder(low, dra.fuse(torch.cat([dra.position(x), dra.channel(x)], 1))))
    for name, net in nets.items():
        torch.testing.assert_close(net(given)["main"], expected[name], msg=name)


def test_danets_branches_are_classified_in_training_with_equal_weight() -> None:
    net: Any = head("danet", dropout=0.0).train()
    outputs = net(features(torch.float32))
    assert list(outputs) == ["main", "position", "channel"]
    assert net.loss_weights() == {"position": 1.0, "channel": 1.0}
    assert not net.stage_auxiliary
    logits = {name: out.sum() for name, out in outputs.items()}
    for name, other in (("position", net.channel), ("channel", net.position)):
        found = torch.autograd.grad(logits[name], list(other.parameters()), allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in found)
    assert list(net.eval()(features(torch.float32))) == ["main"]


@pytest.mark.parametrize("name", ["ccnet", "danet", "dranet"])
def test_attention_starts_switched_off(name: str) -> None:
    net = head(name)
    net.apply(segmenter.initialise)
    gammas = [p for n, p in net.named_parameters() if n.endswith("gamma") and "decoder" not in n]
    assert len(gammas) == (1 if name == "ccnet" else 2)
    assert not any(bool(gamma.any()) for gamma in gammas)


def test_object_context_starts_switched_off() -> None:
    net: Any = head("ocnet")
    net.apply(segmenter.initialise)
    assert not any(bool(p.any()) for p in net.layers[1].expand.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [(-1,), (-2, -1)])
def test_flipped_features_and_kernels_give_flipped_logits(name: str, dims: tuple[int, ...]) -> None:
    net = wake(head(name)).double()
    mirrored = copy.deepcopy(net)
    with torch.no_grad():
        for layer in mirrored.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.flip(dims))
    expected = net(features())["main"].detach().flip(dims)
    torch.testing.assert_close(
        mirrored([f.flip(dims) for f in features()])["main"],
        expected,
        rtol=1e-9,
        atol=1e-9 * float(expected.abs().max()),
    )


# --- numerics and memory --------------------------------------------------------------------------------------------


def test_channel_affinities_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    block = ChannelAttention()
    nn.init.ones_(block.gamma)
    x = torch.rand(2, 32, 24, 24) + 3  # affinities of 5000 that differ by tens: bfloat16 steps by 32 there
    with torch.autocast("cpu", torch.bfloat16):
        rough = block(x)
    exact = block(x)
    assert ((rough - exact).norm() / (exact - x).norm()).item() < 0.01


def test_affinities_to_cells_are_float32_under_autocast() -> None:
    q, k = 3 * torch.randn(2, 1, 60, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        rough = likeness(q, k)  # logits of 70, where bfloat16 steps by a half
    torch.testing.assert_close(rough, torch.einsum("bnd,bmd->bnm", q.double(), k.double()).softmax(-1).float())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", [CrissCross(16, recurrence=2), ObjectContext(16, norm="group")])
def test_no_tensor_of_all_pairs_of_pixels(block: nn.Module, training: bool) -> None:
    x = torch.randn(1, 16, 32, 32, requires_grad=True)
    assert live_bytes(block, [x], training=training).largest <= 32 * 32 * (32 + 32) * 4


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ccnet", [{}, {"recurrence": 1}, {"channels": 24}, {"dropout": 0.5}]),
        ("danet", [{}, {"channels": 24}, {"dropout": 0.5}]),
        ("ocnet", [{}, {"channels": 24}, {"dropout": 0.5}]),
        ("dranet", [{}, {"decoder": False}, {"channels": 32}, {"dropout": 0.5}]),
    ],
)
def test_every_option_is_another_model_that_trains(name: str, options: list[dict[str, Any]]) -> None:
    seen = set()
    for chosen in options:
        torch.manual_seed(0)
        net = head(name, **chosen).train()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        outputs = net(features(torch.float32))
        torch.stack([o.mul(torch.randn(o.shape)).sum() for o in outputs.values()]).sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters()), chosen
        seen.add(repr(net))
    assert len(seen) == len(options)


def test_stride_of_the_logits_follows_the_decoder() -> None:
    assert head("dranet").eval()(features(torch.float32))["main"].shape == (2, 3, 14, 18)
    assert head("dranet", decoder=False).eval()(features(torch.float32))["main"].shape == (2, 3, 7, 9)


@pytest.mark.parametrize(("name", "width"), [("ccnet", 512), ("ocnet", 512), ("danet", None), ("dranet", None)])
def test_auxiliary_heads_are_the_authors(name: str, width: int | None) -> None:
    net = head(name)
    assert net.stage_auxiliary == (name != "danet")
    assert isinstance(net, segmenter.OwnAuxiliary) == (width is not None)
    if isinstance(net, segmenter.OwnAuxiliary):
        auxiliary = net.stage_auxiliary_head(1024, 19)
        assert params(auxiliary) == cbr(1024, 512, 3) + conv(512, 19)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ccnet", {"recurrence": 0}),
        ("ccnet", {"channels": 4}),
        ("danet", {"channels": 4}),
        ("danet", {"recurrence": 2}),
        ("ocnet", {"channels": 15}),
        ("ocnet", {"dropout": 1.0}),
        ("dranet", {"channels": 24}),
        ("dranet", {"decoder": "gated"}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        heads.from_dict({"name": name, **options})

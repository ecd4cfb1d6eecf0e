"""GALD: the published sizes, the formulas written out, and every combination of its options."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from test_context_modules import wake
from torch import Tensor, nn
from torch.nn import functional

from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import gald
from rayseg.heads.cgnl import Cgnl
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.schema import to_dict

SPEC = FeatureSpec((8, 32), (8, 8))


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def head(**options: Any) -> gald.Head:
    config = heads.from_dict({"name": "gald", "channels": 16, **options})
    assert isinstance(config, gald.Config)
    return gald.Head(config, SPEC, num_classes=3)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "auxiliary", "expected"),
    [
        ("resnet50s", True, 52_402_662),
        ("resnet50s", False, 47_672_787),
        ("resnet101s", True, 71_394_790),
        ("resnet101s", False, 66_664_915),
    ],
)
def test_v1_has_the_parameters_of_the_authors_code(backbone: str, auxiliary: bool, expected: int) -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name=backbone, dilation_style="uniform", multi_grid=(1, 2, 4)),
        head=heads.from_dict({"name": "gald", "ga": "cgnl", "ld": "v1"}),
        num_classes=19,
        auxiliary=auxiliary,
    )
    assert params(segmenter.skeleton(config)) == expected


def test_parts_have_the_papers_parameters() -> None:
    v1 = gald.Head(gald.Config(ga="cgnl", ld="v1"), FeatureSpec((1024, 2048), (8, 8)), 19)
    assert params(v1.layers.context) == 435_200  # Table IV: +0.4 M
    assert params(v1.layers.context.ld) == 18_432
    v2 = gald.Head(gald.Config(), FeatureSpec((1024, 2048), (8, 8)), 19)
    assert params(v2.layers.context.ld) + params(v2.layers.local[0]) == 2_293_760  # Table IV: +2.3 M


def test_defaults_are_the_papers() -> None:
    v2, v1 = gald.Config(), gald.Config(ld="v1")
    assert (v2.ga, v2.kernel_size, v2.dilation, v2.channels, v2.key_query) == ("aspp", 5, 6, 256, "both")
    assert (v1.channels, v1.ld_residual, v1.ld_downsample, v1.kernel_size) == (512, "official", "depthwise", None)


# --- formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("residual", "one"), [("official", 2.0), ("paper", 1.0)])
def test_v1_block_is_written_out(residual: str, one: float) -> None:
    block = wake(head(ga="cgnl", ld="v1", ld_residual=residual).layers.context).double()
    x = torch.randn(2, 16, 19, 23, dtype=torch.float64)

    def halve(layers: nn.Sequential, y: Tensor) -> Tensor:
        convolution, norm, _ = layers
        y = functional.conv2d(y, convolution.weight, convolution.bias, stride=2, groups=16)
        return functional.relu(functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    def up(y: Tensor) -> Tensor:
        return functional.interpolate(y, size=(19, 23), mode="bilinear", align_corners=True)

    g = up(block.ga.module(halve(block.ga.down, x)))
    mask = g
    for layers in block.ld.down:
        mask = halve(layers, mask)
    assert mask.shape[2:] == (1, 2)
    torch.testing.assert_close(block(x), (one + torch.sigmoid(up(mask))) * g, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ga", ["nl", "cgnl"])
@pytest.mark.parametrize("options", [{}, {"arrangement": "ldga"}, {"arrangement": "parallel"}, {"ld": "none"}])
def test_all_pixels_are_related_at_half_the_size(ga: str, options: dict[str, Any]) -> None:
    """Section III-A, also without v1; by the layers that v1 has: depthwise 3x3 without padding."""
    net = wake(head(ga=ga, **options))
    (block,) = (m for m in net.modules() if isinstance(m, NonLocal | Cgnl))
    shapes: list[torch.Size] = []
    block.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    assert net([torch.randn(1, c, 15, 20) for c in SPEC.channels])["main"].shape == (1, 3, 15, 20)
    assert shapes == [(1, 16, 7, 9)]


@pytest.mark.parametrize("source", ["both", "key", "query"])
def test_v2_attends_on_context_and_features(source: str) -> None:
    ld = wake(head(key_query=source, kernel_size=3, dilation=2).layers.context.ld).double()
    x, g = (torch.randn(1, c, 6, 7, dtype=torch.float64) for c in (32, 16))
    both = torch.cat([g, x], 1)
    q = ld.query(g if source == "key" else both)
    k = ld.key(g if source == "query" else both)
    v = ld.value(both)
    out = ld(x, g)
    for y, column in itertools.product(range(6), range(7)):
        taps = [(y + 2 * a, column + 2 * b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        inside = [0 <= i < 6 and 0 <= j < 7 for i, j in taps]
        zero = torch.zeros(16, dtype=torch.float64)
        keys = torch.stack([k[0, :, i, j] if ok else zero for (i, j), ok in zip(taps, inside, strict=True)])
        values = torch.stack([v[0, :, i, j] if ok else zero for (i, j), ok in zip(taps, inside, strict=True)])
        weights = (keys @ q[0, :, y, column]).softmax(0)
        torch.testing.assert_close(out[0, :, y, column], weights @ values, rtol=1e-9, atol=1e-9)


def test_v2_starts_with_logits_of_unit_variance() -> None:
    torch.manual_seed(0)
    layers = gald.LocalDistribution(512, 256, gald.Config())
    layers.apply(segmenter.initialise)
    x = torch.randn(1, 768, 32, 32)
    logits = (layers.query(x) * layers.key(torch.randn_like(x))).sum(1)
    assert 0.8 < logits.std().item() < 1.25


@pytest.mark.parametrize("arrangement", ["gald", "ldga", "parallel"])
def test_arrangements_are_figure_6(arrangement: str) -> None:
    block = wake(head(ga="cgnl", ld="v1", arrangement=arrangement).layers.context)
    x = torch.randn(1, 16, 15, 15)
    expected = {
        "gald": block.ld(x, block.ga(x)),
        "ldga": block.ga(block.ld(x)),
        "parallel": torch.cat([block.ld(x), block.ga(x)], 1),
    }
    assert torch.equal(block(x), expected[arrangement])


# --- options --------------------------------------------------------------------------------------------------------


def every_combination() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for ga, ld in itertools.product(["none", "psp", "aspp", "nl", "cgnl"], ["none", "v1", "v2"]):
        both = "none" not in (ga, ld)
        for arrangement in ["gald", "ldga", "parallel"] if both else [None]:
            options = {"ga": ga, "ld": ld} | ({"arrangement": arrangement} if arrangement else {})
            found.append(options)
            if ld == "v1":
                found += [{**options, "ld_residual": "paper"}, {**options, "ld_downsample": "bilinear"}]
                found += [{**options, "ld_downsample": "average"}]
            if ld == "v2":
                found += [{**options, "kernel_size": 3}, {**options, "dilation": 3}]
            if ld == "v2" and arrangement == "gald":
                found += [{**options, "key_query": "key"}, {**options, "key_query": "query"}]
    return found


def test_every_combination_trains_and_is_another_model() -> None:
    features = [torch.randn(2, c, 15, 16) for c in SPEC.channels]
    seen: dict[str, dict[str, Any]] = {}
    for options in every_combination():
        torch.manual_seed(0)
        net = head(**options).train()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        logits = net(features)["main"]
        logits.mul(torch.randn(logits.shape)).sum().backward()
        assert logits.shape == (2, 3, 15, 16), options
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters()), options
        twin = seen.setdefault(repr(net), options)
        assert twin is options, (twin, options)
    assert len(seen) == len(every_combination()) > 70


def test_every_combination_survives_json() -> None:
    for options in every_combination():
        config = heads.from_dict({"name": "gald", **options})
        assert heads.from_dict(json.loads(json.dumps(to_dict(config)))) == config
        assert gald.Config(**options) == config


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ld": "v1", "kernel_size": 5}, "kernel_size"),
        ({"ld": "none", "dilation": 6}, "dilation"),
        ({"ld": "v2", "ld_residual": "paper"}, "ld_residual"),
        ({"ld": "none", "ld_downsample": "average"}, "ld_downsample"),
        ({"ld": "none", "arrangement": "gald"}, "arrangement"),
        ({"ga": "none", "arrangement": "parallel"}, "arrangement"),
        ({"ga": "none", "key_query": "both"}, "key_query"),
        ({"ld": "v1", "key_query": "both"}, "key_query"),
        ({"arrangement": "ldga", "key_query": "key"}, "key_query"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field} = .* would be ignored .*\(head\.{field}\)"):
        heads.from_dict({"name": "gald", **options})


@pytest.mark.parametrize(
    "options", [{"kernel_size": 4}, {"kernel_size": 1}, {"dilation": 0}, {"channels": 24}, {"ga": None}, {"ld": "v3"}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        heads.from_dict({"name": "gald", **options})


@pytest.mark.parametrize(
    ("options", "smallest_px", "where"),
    [
        ({"ld": "v1", "ga": "cgnl"}, 113, "head.ld = v1"),
        ({"ld": "v1", "ga": "none"}, 113, "head.ld = v1"),
        ({"ld": "v1", "ga": "cgnl", "ld_downsample": "average"}, 17, "head.ld = v1"),
        ({"ld": "v2", "ga": "nl"}, 17, "head.ga = nl"),
        ({"ld": "none", "ga": "cgnl"}, 17, "head.ga = cgnl"),
    ],
)
def test_says_how_large_images_must_be(options: dict[str, Any], smallest_px: int, where: str) -> None:
    net = head(**options).train()

    def features(px: int) -> list[Tensor]:
        return [torch.zeros(1, c, -(-px // 8), -(-px // 8)) for c in SPEC.channels]

    with pytest.raises(UsageError, match=rf"\({where}\).*at least {smallest_px} px"):
        net(features(smallest_px - 1))
    assert net(features(smallest_px))["main"].shape[1] == 3


def test_auxiliary_head_is_the_authors() -> None:
    auxiliary = head().stage_auxiliary_head(1024, 19)
    assert params(auxiliary) == 4_729_875
    assert auxiliary[0].bias is not None

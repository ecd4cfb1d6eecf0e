"""DFN: the published sizes, the formulas written out, Table 2's rows, and its loss."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rayseg import config as configs
from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.borders import border_targets
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.heads import dfn
from rayseg.losses import Config as LossConfig
from rayseg.losses import SegmentationLoss
from rayseg.schema import parse, to_dict
from rayseg.tracking import NullTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

SPEC = FeatureSpec((4, 6, 8, 10), (4, 8, 16, 32))
SMALL = {"channels": 8, "border_channels": 5}
BORDERS = ("border_1", "border_2", "border_3", "border_4")
SMOOTH = ("smooth_2", "smooth_3", "smooth_4")


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def head(spec: FeatureSpec = SPEC, **options: Any) -> dfn.Head:
    small = {k: v for k, v in SMALL.items() if options.get("border" if k.startswith("border") else "rrb", True)}
    config = heads.from_dict({"name": "dfn", **small, **options})
    assert isinstance(config, dfn.Config)
    torch.manual_seed(0)
    return dfn.Head(config, spec, num_classes=3)


def features(batch: int = 2, spec: FeatureSpec = SPEC, size: tuple[int, int] = (64, 96)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [[-(-side // stride) for side in size] for stride in spec.strides]
    return [torch.randn(batch, c, *hw, generator=generator) for c, hw in zip(spec.channels, sides, strict=True)]


def double(net: nn.Module) -> nn.Module:
    """In evaluation mode and double precision, with statistics and values of both signs that a mistake shows in."""
    initialised(net)
    with torch.no_grad():
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.2, 1.5)
    return net.double().eval()


def initialised(net: nn.Module) -> nn.Module:
    """Start as in training, but move what starts at 0: it would hide the gradients of others."""
    net.apply(segmenter.initialise)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return net


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_it_has_the_parameters_and_operations_of_the_authors_code() -> None:
    """That code also counts a residual block after the first border level, which nothing uses."""
    config = segmenter.Config(
        backbone=BackboneConfig(name="resnet101s", output_stride=32),
        head=heads.from_dict({"name": "dfn"}),
        num_classes=19,
    )
    net = segmenter.skeleton(config)
    unused = dfn.RefinementResidualBlock(21, 21, norm="batch")
    assert params(net) + params(unused) == 90_217_888
    assert params(net) == 90_209_467
    trained_only = [net.head.border, net.head.detect, *(net.head.classify[name] for name in SMOOTH)]
    assert params(net) - sum(map(params, trained_only)) == 88_212_444
    cost = segmenter.describe(net, (3, 320, 640), training=True)
    assert cost.macs / 1e9 == pytest.approx(216.57, abs=0.005)
    assert cost.aux_params == 0


def test_defaults_are_the_papers() -> None:
    config = dfn.Config()
    switches = (config.rrb, config.global_pooling, config.cab, config.deep_supervision, config.border)
    assert switches == (True,) * 5
    assert (config.channels, config.border_channels) == (512, 21)
    assert not dfn.Head.stage_auxiliary
    assert head().loss_weights() == dict.fromkeys(SMOOTH, 1.0) | dict.fromkeys(BORDERS, 0.1)


# --- formulas -------------------------------------------------------------------------------------------------------


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    return functional.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def rrb(block: dfn.RefinementResidualBlock, y: Tensor, *, relu: bool = True) -> Tensor:
    """Figure 2(b), for a block in evaluation mode."""
    first, norm, _, second = block.refine
    assert second.bias is first.bias is block.unify.bias is None
    x = convolve(block.unify, y)
    inner = functional.batch_norm(convolve(first, x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    out = x + convolve(second, functional.relu(inner))
    return functional.relu(out) if relu else out


def logits(layers: nn.Sequential, x: Tensor) -> Tensor:
    return convolve(layers[1], rrb(layers[0], x, relu=False))


def up(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("pooling", "cab"), [*itertools.product([True, False], repeat=2)])
def test_smooth_network_is_figure_2(pooling: bool, cab: bool) -> None:
    net = double(head(global_pooling=pooling, cab=cab))
    maps = [x.double() for x in features()]
    smooth = net.smooth
    guide = None
    if pooling:
        _, reduce, norm, _ = smooth.pool
        pooled = convolve(reduce, maps[3].mean((2, 3), keepdim=True))
        scale = norm.weight * (norm.running_var + norm.eps) ** -0.5
        guide = functional.relu(
            (pooled - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        )
        guide = guide.expand(-1, -1, *maps[3].shape[2:])
    for level in (3, 2, 1, 0):
        low = rrb(smooth.before[level], maps[level])
        if guide is not None:
            high = up(guide, low)
            attention = 1.0
            if cab:
                w1, _, w2, _ = smooth.fuse[level].weigh
                both = torch.cat([low, high], 1).mean((2, 3))
                hidden = functional.relu(both @ w1.weight[:, :, 0, 0].T + w1.bias)
                attention = torch.sigmoid(hidden @ w2.weight[:, :, 0, 0].T + w2.bias)[:, :, None, None]
            low = attention * low + high
        guide = rrb(smooth.after[level], low)
    assert list(net(maps)) == ["main"]
    torch.testing.assert_close(net(maps)["main"], logits(net.classify["main"], guide), rtol=1e-9, atol=1e-9)


def test_border_network_is_figure_2() -> None:
    net = double(head())
    maps = [x.double() for x in features()]
    border = net.border
    level = rrb(border.before[0], maps[0])
    expected = [logits(net.detect["border_1"], level)]
    for i in (1, 2, 3):
        level = rrb(border.after[i - 1], level + up(rrb(border.before[i], maps[i]), maps[0]))
        expected.append(logits(net.detect[f"border_{i + 1}"], level))
    net.training = True  # all outputs, with the layers still in evaluation mode
    outputs = net(maps)
    assert list(outputs) == ["main", *SMOOTH, *BORDERS]
    for name, value in zip(BORDERS, expected, strict=True):
        assert value.shape == (2, 1, 16, 24)
        torch.testing.assert_close(outputs[name], value, rtol=1e-9, atol=1e-9)


def test_outputs_have_their_levels_sizes() -> None:
    shapes = {name: tuple(x.shape) for name, x in head().train()(features()).items()}
    assert shapes == {
        "main": (2, 3, 16, 24),
        "smooth_2": (2, 3, 8, 12),
        "smooth_3": (2, 3, 4, 6),
        "smooth_4": (2, 3, 2, 3),
        **dict.fromkeys(BORDERS, (2, 1, 16, 24)),
    }


def test_the_prediction_is_the_same_with_and_without_what_trains_it() -> None:
    net = double(head())
    maps = [x.double() for x in features()]
    alone = net(maps)["main"]
    net.training = True
    assert torch.equal(net(maps)["main"], alone)


# --- options --------------------------------------------------------------------------------------------------------

TABLE_2: list[dict[str, bool]] = [
    {"rrb": False},
    {"global_pooling": False, "cab": False, "deep_supervision": False},
    {"cab": False, "deep_supervision": False},
    {"deep_supervision": False},
    {"global_pooling": False, "cab": False},
    {"cab": False},
    {},
]
ROWS = [{**row, "border": border} for row in [*TABLE_2, {"global_pooling": False}] for border in (False, True)]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_row_of_tables_2_and_3_trains_whole_and_is_another_model(norm: str) -> None:
    maps = features()
    seen: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        net = initialised(head(**row, norm=norm)).train()
        outputs = net(maps)
        assert set(outputs) == {"main"} | set(net.loss_weights())
        assert ("smooth_2" in outputs) == (row.get("rrb", True) and row.get("deep_supervision", True))
        assert ("border_1" in outputs) == row["border"]
        torch.stack([x.mul(torch.randn(x.shape)).sum() for x in outputs.values()]).sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters()), row
        assert seen.setdefault(repr(net), row) is row
    assert len(seen) == len(ROWS) == 16


def test_every_row_survives_json() -> None:
    for row in ROWS:
        config = heads.from_dict({"name": "dfn", **row})
        assert heads.from_dict(json.loads(json.dumps(to_dict(config)))) == config == dfn.Config(**row)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rrb": False, "cab": True}, "cab"),
        ({"rrb": False, "global_pooling": False}, "global_pooling"),
        ({"rrb": False, "deep_supervision": True}, "deep_supervision"),
        ({"rrb": False, "channels": 64}, "channels"),
        ({"border": False, "border_channels": 21}, "border_channels"),
    ],
)
def test_options_of_what_is_not_built_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} = .* would be ignored"):
        heads.from_dict({"name": "dfn", **options})


@pytest.mark.parametrize(
    "spec", [FeatureSpec((6, 8, 10), (8, 16, 32)), FeatureSpec((4, 6, 8, 10), (4, 8, 8, 8)), FeatureSpec((7,), (16,))]
)
def test_other_levels_and_strides(spec: FeatureSpec) -> None:
    net = initialised(head(spec)).train()
    outputs = net(features(spec=spec, size=(61, 75)))
    assert set(outputs) == {"main"} | set(net.loss_weights())
    torch.stack([x.mul(torch.randn(x.shape)).sum() for x in outputs.values()]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize("backbone", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_other_backbones(backbone: str) -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name=backbone, output_stride=32),
        head=heads.from_dict({"name": "dfn", "channels": 16}),
        num_classes=3,
    )
    net = segmenter.skeleton(config).train()
    outputs = net(torch.empty(2, 3, 224, 224, device="meta"))
    assert list(outputs) == ["main", *SMOOTH, *BORDERS]
    assert net.border_outputs == BORDERS


# --- loss -----------------------------------------------------------------------------------------------------------


def small_net(**options: Any) -> segmenter.Segmenter:
    mapping = {"name": "dfn", **SMALL, **options}
    config = {"backbone": {"name": "test_resnet", "output_stride": 32}, "head": mapping, "num_classes": 4}
    torch.manual_seed(0)
    return segmenter.build(parse(segmenter.Config, config, "test")).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (2, 4, 4), generator=generator).repeat_interleave(24, 1).repeat_interleave(24, 2)
    images = torch.stack([target % 2, target // 2, target / 3], 1) + 0.1 * torch.randn(
        2, 3, 96, 96, generator=generator
    )
    target[:, 40:60, :30] = 255
    return images, target


def criterion(net: segmenter.Segmenter, **config: Any) -> SegmentationLoss:
    parsed = parse(LossConfig, config, "loss")
    return SegmentationLoss(parsed, ignore_index=255, weights=net.loss_weights(), borders=net.border_outputs)


def test_the_loss_is_equation_7() -> None:
    net = small_net()
    images, target = batch()
    outputs = net(images)
    found = criterion(net)(outputs, target)["loss"].item()
    levels = [functional.cross_entropy(outputs[name], target, ignore_index=255).item() for name in ("main", *SMOOTH)]
    border, valid = border_targets(target, ignore_index=255)
    assert 0.2 < border[valid].double().mean().item() < 0.8
    focal = 0.0
    for name in BORDERS:
        p = outputs[name][:, 0].detach().double().sigmoid()[valid]
        true, alpha = torch.where(border[valid], p, 1 - p), torch.where(border[valid], 0.25, 0.75)
        focal += (-alpha * (1 - true) ** 2 * true.log()).mean().item()
    assert found == pytest.approx(sum(levels) + 0.1 * focal, rel=1e-5)


@pytest.mark.parametrize("weights", [{}, {"border_weight": 0.0}, {"weights": {"smooth_3": 0.0}}])
def test_every_parameter_gets_a_gradient_whatever_the_weights(weights: dict[str, Any]) -> None:
    """DistributedDataParallel waits for one of each."""
    net = small_net()
    images, target = batch()
    criterion(net, **weights)(net(images), target)["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    trained = any(bool(p.grad.any()) for p in net.head.border.parameters() if p.grad is not None)
    assert trained == ("border_weight" not in weights)


def test_without_border_network_its_settings_are_refused() -> None:
    net = small_net(border=False, border_channels=None)
    assert net.border_outputs == ()
    with pytest.raises(UsageError, match="border_weight would be ignored"):
        criterion(net, border_weight=0.5)


def test_it_learns_its_borders() -> None:
    net = small_net()
    images, target = batch()
    loss = criterion(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    curve = []
    for _ in range(30):
        optimizer.zero_grad()
        found = loss(net(images), target)
        found["loss"].backward()
        optimizer.step()
        curve.append({name: value.item() for name, value in found.items()})
    for name in ("main", *BORDERS):
        assert curve[-1][name] < 0.8 * curve[0][name], name
    border, valid = border_targets(target, ignore_index=255)
    logit = net(images)["border_4"][:, 0].detach()
    assert logit[border & valid].mean() > logit[~border & valid].mean()


def tiny_run(tiny_shards: Path, **settings: Any) -> RunConfig:
    base = {
        "data": {"shards": str(tiny_shards)},
        "backbone": {"name": "resnet10t", "output_stride": 32},
        "head": {"name": "dfn", **SMALL},
        "optim": {"lr": 0.004, "head_lr_factor": 10.0, "decay_norm_bias": False},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 2, "batch": 4, "eval_every": 1, "log_every": 1, "precision": "fp32", "shown_images": 0},
    }
    return configs.from_dict(configs.merged(base, settings))


class Curve(NullTracker):
    """Keeps the points it gets."""

    def __init__(self) -> None:
        self.points: dict[str, float] = {}

    def metrics(self, values: Any, step: int) -> None:
        self.points |= {f"{name} {step}": value for name, value in values.items()}


def test_a_run_trains_and_reports_every_output(tiny_shards: Path, tmp_path: Path) -> None:
    curve = Curve()
    settings = {"loss.border_weight": 0.5, "loss.weights.smooth_4": 0.0, "loss.dice_weight": 1.0}
    fit(tiny_run(tiny_shards, **settings), LocalRuntime(tmp_path, "cpu"), curve, show=lambda _: None)
    names = {name.split()[0].removeprefix("train/") for name in curve.points if name.startswith("train/")}
    counted = {"main", "smooth_2", "smooth_3", *BORDERS}
    assert names == {"loss", "dice", "lr", "grad_norm", "samples_per_s", *counted}
    for step in (1, 2):
        parts = {name: curve.points[f"train/{name} {step}"] for name in counted}
        total = sum(value * (0.5 if name in BORDERS else 1.0) for name, value in parts.items())
        assert curve.points[f"train/loss {step}"] == pytest.approx(total, rel=1e-5)


def test_a_weight_of_no_output_is_refused_before_training(tiny_shards: Path, tmp_path: Path) -> None:
    config = tiny_run(tiny_shards, **{"loss.weights.smoth_4": 0.5})
    with pytest.raises(UsageError, match=r"no output 'smoth_4'.*did you mean 'smooth_4'"):
        fit(config, LocalRuntime(tmp_path, "cpu"), NullTracker(), show=lambda _: None)

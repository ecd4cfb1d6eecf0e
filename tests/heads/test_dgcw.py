"""DGCWNet, GAP and SE: the formulas written out, the sizes that follow from the paper, and every option."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from test_context_modules import wake
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation as TorchvisionSqueezeExcitation

from naive.channel_weighting import dgcw as naive
from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import dgcw
from rayseg.heads.gap import Gap
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.heads.se import SqueezeExcitation
from rayseg.schema import to_dict

SPEC = FeatureSpec((8, 32), (8, 8))


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def head(**options: Any) -> dgcw.Head:
    narrow = {} if options.get("context") == "none" else {"channels": 16}
    config = heads.from_dict({"name": "dgcw", "base": "none", **narrow, **options})
    assert isinstance(config, dgcw.Config)
    return dgcw.Head(config, SPEC, num_classes=3)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# --- the module -----------------------------------------------------------------------------------------------------


def relations(block: dgcw.Dgcw, f: Tensor) -> Tensor:
    """Write eq. 1 to 5 out, without the F that is added."""
    q, k, v = (layer(f) for layer in (block.query, block.key, block.value))
    convolutions = [x for layer in (block.first, block.last) for x in (layer.weight[:, :, 0, 0], layer.bias)]
    return naive(q, k, v, *convolutions, weighting=block.weighting)


@pytest.mark.parametrize("weighting", ["dbs", "softmax", "tanh"])
@pytest.mark.parametrize(("reduce", "divisor"), [("sum", 1), ("mean", 35)])
def test_module_is_the_formula(weighting: Any, reduce: str, divisor: int) -> None:
    block = wake(dgcw.Dgcw(8, weighting=weighting, reduce=reduce)).double()
    f = random(2, 8, 5, 7)
    torch.testing.assert_close(block(f), f + relations(block, f) / divisor, rtol=1e-10, atol=1e-10)


def test_one_pair_by_hand() -> None:
    """Two channels, two pixels, all convolutions the identity: `W . V` by pencil."""
    block = dgcw.Dgcw(2).double()
    with torch.no_grad():
        for layer in (block.query, block.key, block.value, block.first, block.last):
            layer.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
            layer.bias.zero_()
    f = torch.tensor([[1.0, 2.0], [5.0, 4.0]], dtype=torch.float64).view(1, 2, 1, 2)
    # The two differ by 1 in each channel, so each weighs a half; a pixel's relation to itself is 0.
    torch.testing.assert_close(block(f), 1.5 * f, rtol=1e-6, atol=0)


def test_flipping_the_map_flips_the_modules_result() -> None:
    block = wake(dgcw.Dgcw(8)).double()
    f = random(1, 8, 5, 6)
    torch.testing.assert_close(block(f.flip(3)).flip(3), block(f))


def test_the_mean_does_not_depend_on_how_large_the_map_is() -> None:
    """A map beside its copy: every pixel meets the same pixels twice."""
    f = random(1, 8, 4, 5)
    twice = torch.cat([f, f], 3)
    for reduce, factor in [("sum", 2), ("mean", 1)]:
        block = wake(dgcw.Dgcw(8, reduce=reduce)).double()
        small, large = block(f) - f, (block(twice) - twice)[..., :5]
        torch.testing.assert_close(large, factor * small)


def test_the_sum_starts_about_as_large_as_the_map() -> None:
    torch.manual_seed(0)
    block = dgcw.Dgcw(128)
    block.apply(segmenter.initialise)
    f = torch.randn(1, 128, 25, 25).relu()
    assert 0.3 < ((block(f) - f).norm() / f.norm()).item() < 3


# --- what stands in its place ---------------------------------------------------------------------------------------


def test_conv_is_the_module_without_weights() -> None:
    block = wake(dgcw.Unweighted(8)).double()
    f = random(2, 8, 3, 5)
    value, first, last = (
        (layer.weight[:, :, 0, 0], layer.bias.view(-1, 1, 1)) for layer in (block.value, block.first, block.last)
    )
    v = torch.einsum("oc,bchw->bohw", value[0], f) + value[1]
    hidden = (torch.einsum("oc,bchw->bohw", first[0], v) + first[1]).clamp(min=0)
    expected = f + torch.einsum("oc,bchw->bohw", last[0], hidden) + last[1]
    torch.testing.assert_close(block(f), expected)


def test_gap_is_one_vector_for_all_pixels() -> None:
    block = wake(Gap(8, 4)).double()
    x = random(2, 8, 3, 5)
    _, convolution, norm, _ = block.layers
    mean = x.sum((2, 3)) / 15 @ convolution.weight[:, :, 0, 0].T
    vector = (mean - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(block(x), vector.relu()[..., None, None].expand(2, 4, 3, 5))


def test_se_equals_torchvision() -> None:
    theirs = wake(TorchvisionSqueezeExcitation(16, 5))
    ours = SqueezeExcitation(16, 5)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = random(2, 16, 4, 3).float()
    torch.testing.assert_close(ours(x), theirs(x))


def test_se_head_narrows_by_its_reduction() -> None:
    for reduction, hidden in [(16, 32), (4, 128), (1000, 1)]:
        config = heads.from_dict({"name": "se", "reduction": reduction})
        net = heads.build(config, FeatureSpec((1024, 2048), (8, 8)), 19)
        squeeze = next(m for m in net.modules() if isinstance(m, SqueezeExcitation))
        assert params(squeeze) == 2 * 512 * hidden + hidden + 512


# --- the head -------------------------------------------------------------------------------------------------------


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly with align_corners=False, by coordinates."""

    def taps(size: int, source: int) -> Tensor:
        at = ((torch.arange(size, dtype=torch.float64) + 0.5) * source / size - 0.5).clamp(min=0)
        low = at.floor().long()
        weights = torch.zeros(size, source, dtype=torch.float64)
        rows = torch.arange(size)
        weights[rows, low] += 1 - (at - low)
        weights[rows, (low + 1).clamp(max=source - 1)] += at - low
        return weights

    return torch.einsum("bchw,ih,jw->bcij", x, taps(height, x.shape[2]), taps(width, x.shape[3]))


def convolved(layers: nn.Sequential, x: Tensor) -> Tensor:
    convolution, norm, _ = layers
    y = functional.conv2d(x, convolution.weight, padding=1)
    return functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


CONTEXTS = {"dgcw": dgcw.Dgcw, "conv": dgcw.Unweighted, "se": SqueezeExcitation, "nl": NonLocal, "nl_reduced": NonLocal}


@pytest.mark.parametrize(("context", "fuse"), [*itertools.product(CONTEXTS, ["concat", "none"]), ("gap", "concat")])
def test_head_is_written_out(context: str, fuse: str) -> None:
    net = wake(head(context=context, fuse=fuse)).double()
    x = random(2, 32, 9, 10)
    if context == "gap":
        y = net.context(x)
    else:
        reduce, *_, block = net.context
        assert isinstance(block, CONTEXTS[context])
        f = convolved(reduce, x)
        y = block(f if context in ("se", "nl") else resized(f, 3, 3))
        if context == "dgcw":
            small = resized(f, 3, 3)
            torch.testing.assert_close(y, small + relations(block, small))
    if fuse == "concat":
        y = convolved(net.fuse, torch.cat([x, resized(y, 9, 10)], 1))
    expected = torch.einsum("oc,bchw->bohw", net.classify.weight[:, :, 0, 0], y) + net.classify.bias.view(-1, 1, 1)
    torch.testing.assert_close(net([x, x])["main"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("base", ["psp", "aspp"])
def test_the_base_comes_first_and_is_fused(base: str) -> None:
    net, plain = wake(head(base=base)), wake(head())
    x = random(1, 32, 9, 10).float()
    features = net.base(x)
    assert features.shape == (1, {"psp": 8, "aspp": 512}[base], 9, 10)
    y = functional.interpolate(net.context(features), size=(9, 10), mode="bilinear")
    torch.testing.assert_close(net([x, x])["main"], net.classify(net.fuse(torch.cat([features, y], 1))))
    assert torch.equal(plain.base(x), x)


@pytest.mark.parametrize("base", ["none", "psp", "aspp"])
def test_the_base_alone_is_classified(base: str) -> None:
    net = wake(head(base=base, context="none")).double()
    x = random(1, 32, 9, 10)
    y = net.base(x)
    if base == "none":
        y = convolved(net.fuse, x)
    expected = torch.einsum("oc,bchw->bohw", net.classify.weight[:, :, 0, 0], y) + net.classify.bias.view(-1, 1, 1)
    torch.testing.assert_close(net([x, x])["main"], expected)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout2d) and m.p > 0] == [0.1]


@pytest.mark.parametrize(
    ("height", "width", "small"), [(97, 97, (25, 25)), (128, 256, (32, 64)), (65, 65, (17, 17)), (3, 1, (1, 1))]
)
def test_maps_shrink_to_the_papers_sizes(height: int, width: int, small: tuple[int, int]) -> None:
    """A crop of 769 px has N = 625, a whole image of Cityscapes N = 2048."""
    for method in ("bilinear", "average"):
        assert dgcw.Downsample(method, 4)(torch.zeros(1, 1, height, width)).shape[2:] == small


def test_average_downsampling_takes_means_of_blocks() -> None:
    x = random(1, 2, 8, 12)
    means = x.reshape(1, 2, 2, 4, 3, 4).mean((3, 5))
    torch.testing.assert_close(dgcw.Downsample("average", 4)(x), means)


# --- sizes ----------------------------------------------------------------------------------------------------------

RESNET101 = FeatureSpec((1024, 2048), (8, 8))


def conv_norm(inputs: int, outputs: int, taps: int = 1) -> int:
    return inputs * outputs * taps + 2 * outputs


BASES = {
    "none": (0, 2048),
    "psp": (4 * conv_norm(2048, 512) + conv_norm(4096, 512, 9), 512),
    "aspp": (2 * conv_norm(2048, 512) + 3 * conv_norm(2048, 512, 9) + conv_norm(2560, 512), 512),
}
LINEAR = 128 * 128 + 128
IN_PLACE = {
    "dgcw": 5 * LINEAR,
    "conv": 3 * LINEAR,
    "se": 2 * LINEAR,
    "nl": 3 * LINEAR + 1,
    "nl_reduced": 3 * LINEAR + 1,
}


@pytest.mark.parametrize(("base", "context"), list(itertools.product(BASES, [*IN_PLACE, "gap"])))
def test_parameters_follow_from_the_papers_layers(base: str, context: str) -> None:
    base_params, width = BASES[base]
    layers = conv_norm(width, 128) if context == "gap" else conv_norm(width, 128, 9) + IN_PLACE[context]
    rest = conv_norm(width + 128, 512, 9) + 512 * 19 + 19
    with torch.device("meta"):
        net = dgcw.Head(dgcw.Config(base=base, context=context), RESNET101, 19)
        literal = (
            dgcw.Head(dgcw.Config(base=base, context=context, fuse="none"), RESNET101, 19) if context != "gap" else None
        )
    assert params(net) == base_params + layers + rest
    assert literal is None or params(literal) == base_params + layers + 128 * 19 + 19


@pytest.mark.parametrize(("base", "classifier"), [("none", "fcn"), ("psp", "psp"), ("aspp", None)])
def test_the_base_alone_is_its_authors_net(base: str, classifier: str | None) -> None:
    base_params = BASES[base][0]
    between = conv_norm(2048, 512, 9) if base == "none" else 0
    with torch.device("meta"):
        net = dgcw.Head(dgcw.Config(base=base, context="none"), RESNET101, 19)
        theirs = None if classifier is None else heads.build(heads.from_dict({"name": classifier}), RESNET101, 19)
    assert params(net) == base_params + between + 512 * 19 + 19
    assert theirs is None or params(net) == params(theirs)


def test_all_convolutions_in_nl_have_the_papers_width() -> None:
    for context in ("nl", "nl_reduced"):
        (block,) = (m for m in head(context=context, channels=32).modules() if isinstance(m, NonLocal))
        assert {m.out_channels for m in block.modules() if isinstance(m, nn.Conv2d)} == {32}


@pytest.mark.parametrize(("height", "width", "N"), [(97, 97, 625), (128, 256, 2048)])
def test_multiply_adds_of_the_module(height: int, width: int, N: int) -> None:
    """q, k, v and the last convolution on N pixels, the first on N^2 pairs: 6.41 G and 68.7 G, half of the paper's."""
    C = 128
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        dgcw.Dgcw(C)(dgcw.Downsample("bilinear", 4)(torch.empty(1, C, height, width)))
    pairs = N**2 * C**2
    assert counter.get_total_flops() // 2 == pairs + N**2 * C + 4 * N * C**2
    assert pairs / 1e9 == pytest.approx({625: 6.40, 2048: 68.7}[N], rel=1e-3)


def test_describe_counts_the_head_without_computing() -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name="resnet101"), head=heads.from_dict({"name": "dgcw"}), num_classes=19
    )
    cost = segmenter.describe(segmenter.skeleton(config), (3, 769, 769))
    assert cost.head_params == params(dgcw.Head(dgcw.Config(), RESNET101, 19))
    assert cost.aux_params == conv_norm(1024, 256, 9) + 256 * 19 + 19


# --- options --------------------------------------------------------------------------------------------------------


def every_combination() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    found += [{"base": base, "context": "none"} for base in BASES]
    for base, context, fuse in itertools.product(BASES, [*IN_PLACE, "gap"], ["concat", "none"]):
        if (context, fuse) == ("gap", "none"):
            continue
        options = {"base": base, "context": context, "fuse": fuse}
        found.append(options)
        if base == "none" and context == "dgcw":
            found += [{**options, "weighting": "softmax"}, {**options, "weighting": "tanh"}]
            found += [{**options, "reduce": "mean"}]
        if base == "none" and context in ("dgcw", "conv", "nl_reduced"):
            found += [{**options, "downsample": "average"}, {**options, "factor": 2}]
    return found


def test_every_combination_trains_and_is_another_model() -> None:
    features = [torch.randn(2, c, 9, 10) for c in SPEC.channels]
    seen: dict[str, dict[str, Any]] = {}
    for options in every_combination():
        torch.manual_seed(0)
        net = head(**options).train()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        logits = net(features)["main"]
        logits.mul(torch.randn(logits.shape)).sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters()), options
        twin = seen.setdefault(repr(net), options)
        assert twin is options, (twin, options)
    assert len(seen) == len(every_combination()) > 45


def test_every_combination_survives_json() -> None:
    for options in every_combination():
        config = heads.from_dict({"name": "dgcw", **options})
        assert heads.from_dict(json.loads(json.dumps(to_dict(config)))) == config
        assert dgcw.Config(**options) == config


def test_defaults_are_the_papers_best() -> None:
    config = dgcw.Config()
    assert (config.base, config.context, config.channels) == ("aspp", "dgcw", 128)
    assert (config.weighting, config.reduce, config.downsample, config.factor) == ("dbs", "sum", "bilinear", 4)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"context": "conv", "weighting": "dbs"}, "weighting"),
        ({"context": "conv", "reduce": "mean"}, "reduce"),
        ({"context": "nl_reduced", "weighting": "tanh"}, "weighting"),
        ({"context": "gap", "factor": 4}, "factor"),
        ({"context": "se", "downsample": "average"}, "downsample"),
        ({"context": "nl", "factor": 2}, "factor"),
        ({"context": "none", "fuse": "concat"}, "fuse"),
        ({"context": "none", "channels": 128}, "channels"),
        ({"context": "none", "weighting": "dbs"}, "weighting"),
        ({"context": "none", "reduce": "sum"}, "reduce"),
        ({"context": "none", "factor": 4}, "factor"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field} = .* would be ignored .*\(head\.{field}\)"):
        heads.from_dict({"name": "dgcw", **options})


def test_a_pooled_vector_alone_is_refused() -> None:
    with pytest.raises(UsageError, match=r"same vector.*\(head\.fuse\).*choose concat"):
        heads.from_dict({"name": "dgcw", "context": "gap", "fuse": "none"})


@pytest.mark.parametrize(
    "options", [{"factor": 1}, {"channels": 7}, {"context": None}, {"base": "fcn"}, {"reduce": "max"}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        heads.from_dict({"name": "dgcw", **options})

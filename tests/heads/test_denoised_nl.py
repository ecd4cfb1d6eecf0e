"""Denoised NL: the published sizes, the block written out, every combination of its options."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from test_context_modules import transfer, wake
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from naive.denoised_attention import denoised_attention as naive
from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import denoised_nl
from rayseg.schema import to_dict

SPEC = FeatureSpec((8, 16, 24, 32), (4, 8, 8, 8))


def head(**options: Any) -> denoised_nl.Head:
    config = heads.from_dict({"name": "denoised_nl", **options})
    assert isinstance(config, denoised_nl.Config)
    built = denoised_nl.Head(config, SPEC, num_classes=3)
    built.apply(segmenter.initialise)
    return built


def features(height: int, width: int, *, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(2 * height, 2 * width), *[(height, width)] * 3]
    return [torch.randn(batch, c, *size, generator=generator) for c, size in zip(SPEC.channels, sizes, strict=True)]


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "params", "gmacs"), [("resnet50s", 59_671_866, 524.2), ("resnet101s", 78_663_994, 698.8)]
)
def test_parameters_and_cost_are_those_of_the_authors_code(backbone: str, params: int, gmacs: float) -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name=backbone, dilation_style="uniform", multi_grid=(1, 2, 4)),
        head=heads.from_dict({"name": "denoised_nl"}),
        num_classes=19,
    )
    net = segmenter.skeleton(config)
    assert sum(p.numel() for p in net.parameters()) == params
    assert segmenter.describe(net, (3, 768, 768), training=True).macs / 1e9 == pytest.approx(gmacs, abs=0.05)


def flops(block: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(*inputs)
    return counter.get_total_flops()


def test_the_block_costs_what_table_v_counts() -> None:
    with torch.device("meta"):
        block, f, classes = (
            denoised_nl.DenoisedNonLocal(512, 3),
            torch.empty(1, 512, 48, 48),
            torch.empty(1, 19, 48, 48),
        )
        assert flops(block, f, classes) == pytest.approx(7.83e9, rel=1e-3)
        plain = denoised_nl.DenoisedNonLocal(512, None)
        assert flops(plain, f) == pytest.approx(7.63e9, rel=1e-3)


# --- formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rectify", "kernel_size"), list(itertools.product([False, True], [None, 3, 5])))
def test_the_block_is_the_papers_formula(rectify: bool, kernel_size: int | None) -> None:
    block = wake(denoised_nl.DenoisedNonLocal(16, kernel_size)).double()
    f = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    classes = torch.randn(2, 3, 5, 7, dtype=torch.float64) if rectify else None
    q, k, v = block.query(f), block.key(f), block.value(f)
    expected = block.gamma * naive(q, k, v, classes=classes, kernel_size=kernel_size) + f
    torch.testing.assert_close(block(f, classes), expected, rtol=1e-10, atol=1e-10)


def test_the_block_starts_as_the_identity() -> None:
    block = denoised_nl.DenoisedNonLocal(16, 3)
    f = torch.randn(1, 16, 5, 7)
    assert torch.equal(block(f, torch.randn(1, 3, 5, 7)), f)


def test_the_reduction_is_torchvisions_block_with_an_active_shortcut() -> None:
    shortcut = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    theirs = wake(BasicBlock(8, 8, stride=2, downsample=shortcut))
    ours = denoised_nl.Reduction(8, norm="batch").eval()
    transfer(theirs, ours)
    x = torch.randn(2, 8, 7, 10)
    torch.testing.assert_close(ours(x), theirs(x))


def classes_seen(built: denoised_nl.Head, maps: list[Tensor]) -> list[Tensor | None]:
    """Record F and P as the block gets them."""
    seen: list[Tensor | None] = []
    built.attend.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    built(maps)
    return seen


def test_rectifies_by_the_auxiliary_probabilities() -> None:
    built, maps = wake(head()), features(9, 13)
    _, classes = classes_seen(built, maps)
    # At 2 n - 1 pixels the half size with aligned corners is every second pixel.
    assert torch.allclose(classes, built.aux2(maps[-2])[:, :, ::2, ::2].softmax(1), atol=1e-6)


def test_rectifies_by_the_papers_logits_of_f() -> None:
    built, maps = wake(head(rectify_from="features", rectify_by="logits")), features(9, 13)
    f, classes = classes_seen(built, maps)
    assert torch.allclose(classes, built.coarse(f), atol=1e-5)
    assert f.shape[-2:] == (5, 7)


def test_global_context_is_the_pooled_map() -> None:
    built, maps = wake(head(global_context=True)), features(9, 13)
    seen: list[Tensor] = []
    built.classify.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    built(maps)
    expected = built.pooled(maps[-1].mean((2, 3), keepdim=True)).expand(-1, -1, 9, 13)
    assert torch.equal(seen[0][:, -8:], expected)
    assert torch.equal(seen[0][:, :32], maps[-1])


def test_the_baseline_is_all_but_the_block() -> None:
    """Table V counts what is added to the Baseline, and that is the block alone."""
    built, baseline, maps = wake(head()), wake(head(attention=False)), features(9, 13)
    states = built.state_dict()
    names = {name for name in states if not name.startswith("attend.")}
    assert names == baseline.state_dict().keys() != states.keys()
    baseline.load_state_dict({name: states[name] for name in names})
    with torch.no_grad():
        built.attend.gamma.fill_(0.5)
        assert not torch.allclose(baseline(maps)["main"], built(maps)["main"])
        built.attend.gamma.zero_()
    torch.testing.assert_close(baseline(maps)["main"], built(maps)["main"])


def test_mirrored_maps_give_mirrored_logits() -> None:
    built, maps = wake(head()).double(), [x.double() for x in features(9, 13)]
    for layer in built.modules():  # symmetric kernels, then only position could break the mirror
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data + layer.weight.data.flip(3)
    mirrored = built([x.flip(3) for x in maps])["main"]
    torch.testing.assert_close(mirrored, built(maps)["main"].flip(3), rtol=1e-9, atol=1e-9)


def test_starts_with_the_authors_variance() -> None:
    torch.manual_seed(0)
    for layer in (m for m in head(channels=64).modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 2000):
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.1)


# --- options --------------------------------------------------------------------------------------------------------


def every_combination() -> list[dict[str, Any]]:
    switches = itertools.product([True, False], repeat=2)
    found: list[dict[str, Any]] = [{"global_rectifying": gr, "local_retention": lr} for gr, lr in switches]
    sources, forms = ["auxiliary", "features"], ["probabilities", "logits"]
    found += [{"rectify_from": s, "rectify_by": f} for s, f in itertools.product(sources, forms)][1:]
    found += [{"attention": False}, {"attention": False, "global_context": True}]
    return [*found, {"kernel_size": 5}, {"global_context": True}, {"channels": 16}]


def test_every_combination_trains_and_is_another_model() -> None:
    seen = set()
    for options in every_combination():
        torch.manual_seed(0)
        net = head(**options).train()
        with torch.no_grad():
            if net.attend is not None:
                net.attend.gamma.fill_(0.5)
        outputs = net(features(5, 6, batch=2))
        assert list(outputs) == ["main", "aux1", "aux2"], options
        torch.stack([o.mul(torch.randn(o.shape)).sum() for o in outputs.values()]).sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters()), options
        seen.add(repr(net))
    assert len(seen) == len(every_combination())


def test_evaluation_gives_main_alone_and_the_same() -> None:
    for options in every_combination():
        net = wake(head(**options, dropout=0.0))
        maps = features(5, 6, batch=2)
        evaluated = net(maps)
        for layer in net.modules():  # training but for the norms
            layer.training = not isinstance(layer, nn.BatchNorm2d)
        assert list(evaluated) == ["main"]
        assert torch.equal(evaluated["main"], net(maps)["main"]), options


@pytest.mark.parametrize(
    ("options", "run"),
    [
        ({}, {"aux2"}),
        ({"rectify_from": "features"}, set()),
        ({"global_rectifying": False}, set()),
        ({"attention": False}, set()),
    ],
)
def test_evaluation_runs_only_the_auxiliary_that_rectifies(options: dict[str, Any], run: set[str]) -> None:
    net = head(**options).eval()
    seen = set()
    for name in ("aux1", "aux2"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.add(name))
    net(features(5, 6))
    assert seen == run


def test_every_combination_survives_json() -> None:
    for options in every_combination():
        config = heads.from_dict({"name": "denoised_nl", **options})
        assert heads.from_dict(json.loads(json.dumps(to_dict(config)))) == config
        assert denoised_nl.Config(**options) == config


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"global_rectifying": False, "rectify_from": "features"}, "rectify_from"),
        ({"global_rectifying": False, "rectify_by": "logits"}, "rectify_by"),
        ({"local_retention": False, "kernel_size": 3}, "kernel_size"),
        ({"attention": False, "global_rectifying": True}, "global_rectifying"),
        ({"attention": False, "local_retention": True}, "local_retention"),
        ({"attention": False, "kernel_size": 3}, "kernel_size"),
        ({"attention": False, "rectify_by": "logits"}, "rectify_by"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field} = .* would be ignored .*\(head\.{field}\)"):
        heads.from_dict({"name": "denoised_nl", **options})


@pytest.mark.parametrize(
    "options", [{"kernel_size": 4}, {"kernel_size": 1}, {"channels": 4}, {"attention": None}, {"dropout": 1.0}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        heads.from_dict({"name": "denoised_nl", **options})


def test_a_backbone_of_two_stages_is_refused() -> None:
    with pytest.raises(UsageError, match=r"three stages, there are 2.*denoised_nl"):
        denoised_nl.Head(denoised_nl.Config(), FeatureSpec((8, 16), (8, 8)), num_classes=3)

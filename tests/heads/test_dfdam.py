"""DF-DAM: the published parameters and GFLOPs, the formulas written out, the paper's ablations."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from test_context_modules import wake
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rayseg import heads, losses, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import dfdam

SPEC = FeatureSpec((8, 12, 20, 24), (4, 8, 16, 32))


def params(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def head(**options: Any) -> dfdam.Head:
    config = heads.from_dict({"name": "dfdam", "channels": 16, **options})
    assert isinstance(config, dfdam.Config)
    return dfdam.Head(config, SPEC, num_classes=3)


def features(*sizes: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, c, *s, dtype=dtype, generator=generator) for c, s in zip(SPEC.channels, sizes, strict=True)]


def network(backbone: str, num_classes: int) -> segmenter.Segmenter:
    config = segmenter.Config(
        backbone=BackboneConfig(name=backbone, output_stride=32),
        head=heads.from_dict({"name": "dfdam"}),
        num_classes=num_classes,
    )
    return segmenter.skeleton(config)


# --- sizes ----------------------------------------------------------------------------------------------------------


PUBLISHED = pytest.mark.parametrize(
    ("backbone", "num_classes", "num_params", "gmacs", "published_m", "published_g"),
    [("resnet18", 19, 11_573_130, 10.2467, 11.57, 10.31), ("resnet101", 21, 43_241_232, 35.2324, 43.24, 35.52)],
)


@PUBLISHED
def test_parameters_and_gflops_of_tables_4_and_6(
    backbone: str, num_classes: int, num_params: int, gmacs: float, published_m: float, published_g: float
) -> None:
    net = network(backbone, num_classes)
    assert params(net) == num_params
    assert num_params / 1e6 == pytest.approx(published_m, abs=0.005)
    products = segmenter.describe(net, (3, 320, 640), training=True).macs
    assert products / 1e9 == pytest.approx(gmacs, abs=5e-5)
    assert (products + beside_products(net)) / 1e9 == pytest.approx(published_g, abs=0.005)


def beside_products(net: segmenter.Segmenter) -> int:
    """What the paper's counter adds to products: biases, 4 for each normalised value, each pooled value."""
    found = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal found
        if isinstance(layer, nn.BatchNorm2d):
            found += 4 * output.numel()
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            found += inputs[0].numel() + output.numel()
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            found += output.numel()

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    with torch.no_grad():
        net.train()(torch.empty(1, 3, 320, 640, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def test_high_features_are_resized_before_they_are_reduced() -> None:
    x = [torch.empty(1, c, 64 // s, 64 // s, device="meta") for c, s in zip(*SPEC, strict=True)]
    with torch.device("meta"):
        net = head(dafm=False, pam=False).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.context(x[-2], x[-1])
    assert counter.get_total_flops() == 2 * 16 * 4 * 4 * (20 + 24)  # both at stride 16


# --- formulas -------------------------------------------------------------------------------------------------------


def test_whole_head_is_written_out() -> None:
    net = wake(head()).double()
    net.train(False).training = True  # auxiliary outputs, norms as in evaluation
    space, _, low, high = given = features((16, 20), (8, 10), (4, 5), (2, 3))

    def cbr(layers: nn.Sequential, x: Tensor) -> Tensor:
        convolution, norm, _ = layers
        x = functional.conv2d(x, convolution.weight, padding=convolution.kernel_size[0] // 2)
        return functional.relu(functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    def alpha(layers: nn.Sequential) -> Tensor:
        first, second = layers[1], layers[3]
        hidden = torch.einsum("oc,bc->bo", first.weight[:, :, 0, 0], high.mean((2, 3))) + first.bias
        logits = torch.einsum("oc,bc->bo", second.weight[:, :, 0, 0], hidden.relu()) + second.bias
        return 1 / (1 + (-logits).exp())

    def classified(layers: nn.Sequential, x: Tensor) -> Tensor:
        return functional.conv2d(cbr(layers[0], x), layers[1].weight, layers[1].bias)

    up_high = cbr(net.reduce_high, functional.interpolate(high, size=(4, 5), mode="bilinear"))
    context = torch.einsum("bc,bchw->bchw", alpha(net.dafm.high), up_high)
    context = context + torch.einsum("bc,bchw->bchw", alpha(net.dafm.low), cbr(net.reduce_low, low))
    up_context = functional.interpolate(context, size=(16, 20), mode="bilinear")
    x_si = cbr(net.reduce_space, space)
    first, second, last, _ = net.pam.confidence
    seen = cbr(second, cbr(first, torch.cat([x_si, up_context], 1)))
    beta = (torch.einsum("c,bchw->bhw", last.weight[0, :, 0, 0], seen) + last.bias).sigmoid().unsqueeze(1)
    expected = {
        "main": classified(net.classify, beta * x_si + up_context),  # eq. 10
        "context": classified(net.classify_context, context),
        "spatial": classified(net.classify_space, beta * x_si),  # eq. 9
    }
    outputs = net(given)
    assert list(outputs) == list(expected)
    for name, logits in outputs.items():
        torch.testing.assert_close(logits, expected[name], rtol=1e-10, atol=1e-10)


def test_two_weightings_are_read_from_the_high_features_alone() -> None:
    net = wake(head()).double()
    _, _, low, high = features((16, 16), (8, 8), (4, 4), (2, 2))
    fused, other = net.context(low, high), net.context(2 * low, high)
    a_low, a_high = net.dafm.low(high), net.dafm.high(high)
    assert a_low.shape == a_high.shape == (2, 16, 1, 1)
    torch.testing.assert_close(other - fused, a_low * (net.reduce_low(2 * low) - net.reduce_low(low)))
    assert not torch.allclose(a_low, a_high)


def test_confidence_is_one_number_a_pixel_between_0_and_1() -> None:
    pam = wake(dfdam.PositionConfidence(16, norm="batch")).double()
    space, context = torch.randn(2, 2, 16, 5, 6, dtype=torch.float64)
    beta = (pam(space, context) / space).detach()
    torch.testing.assert_close(beta, beta[:, :1].expand_as(beta))
    assert 0 < float(beta.min()) < float(beta.max()) < 1


@pytest.mark.parametrize("dims", [(-1,), (-2,), (-2, -1)])
def test_flipped_features_and_kernels_give_flipped_logits(dims: tuple[int, ...]) -> None:
    net = wake(head()).double()
    mirrored = copy.deepcopy(net)
    with torch.no_grad():
        for layer in mirrored.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.flip(dims))
    given = features((15, 17), (8, 9), (4, 5), (2, 3))
    expected = net(given)["main"].flip(dims)
    torch.testing.assert_close(mirrored([f.flip(dims) for f in given])["main"], expected, rtol=1e-9, atol=1e-9)


# --- options --------------------------------------------------------------------------------------------------------


def test_ablations_are_sums() -> None:
    given = features((16, 20), (8, 10), (4, 5), (2, 3))
    full = wake(head()).double()
    for dafm, pam in itertools.product([False, True], repeat=2):
        net = head(dafm=dafm, pam=pam).double().eval()
        missing, unexpected = net.load_state_dict(full.state_dict(), strict=False)
        gone = {"dafm." * (not dafm), "pam." * (not pam)} - {""}
        assert not missing
        assert {name.split(".")[0] + "." for name in unexpected} == gone
        low, high = given[-2], functional.interpolate(given[-1], size=(4, 5), mode="bilinear")
        context = full.context(given[-2], given[-1]) if dafm else net.reduce_low(low) + net.reduce_high(high)
        torch.testing.assert_close(net.context(given[-2], given[-1]), context)
        up = functional.interpolate(context, size=(16, 20), mode="bilinear")
        space = net.reduce_space(given[0])
        expected = (full.pam(space, up) if pam else space) + up
        torch.testing.assert_close(net(given)["main"], net.classify(expected))


def test_modules_have_the_parameters_that_set_the_ablations_apart() -> None:
    net = dfdam.Head(dfdam.Config(), FeatureSpec((64, 128, 256, 512), (4, 8, 16, 32)), 19)
    assert params(net.dafm) == 2 * (512 * 8 + 8 + 8 * 128 + 128)
    assert params(net.pam) == 256 * 64 + 128 + 64 * 64 * 9 + 128 + 64 + 1
    assert {params(c) for c in (net.classify, net.classify_context, net.classify_space)} == {
        128 * 64 * 9 + 128 + 64 * 19 + 19
    }


def test_every_combination_trains_and_is_another_model() -> None:
    given = features((16, 20), (8, 10), (4, 5), (2, 3), dtype=torch.float32)
    seen = set()
    for dafm, pam, norm, channels in itertools.product([False, True], [False, True], ["batch", "group"], [16, 32]):
        torch.manual_seed(0)
        net = head(dafm=dafm, pam=pam, norm=norm, channels=channels).train()
        outputs = net(given)
        torch.stack([o.mul(torch.randn(o.shape)).sum() for o in outputs.values()]).sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
        seen.add(repr(net))
    assert len(seen) == 16


def test_auxiliary_outputs_have_the_papers_weights_and_are_left_out_of_evaluation() -> None:
    net = head()
    given = features((16, 16), (8, 8), (4, 4), (2, 2), dtype=torch.float32)
    shapes = {name: tuple(logits.shape) for name, logits in net.train()(given).items()}
    assert shapes == {"main": (2, 3, 16, 16), "context": (2, 3, 4, 4), "spatial": (2, 3, 16, 16)}
    assert list(net.eval()(given)) == ["main"]
    assert not net.stage_auxiliary
    criterion = losses.SegmentationLoss(losses.Config(), ignore_index=255, weights=net.loss_weights())
    logits = {name: torch.randn(2, 3, 4, 4) for name in shapes}
    parts = criterion(logits, torch.randint(3, (2, 4, 4)))
    expected = parts["main"] + 0.4 * parts["context"] + 0.1 * parts["spatial"]  # eq. 12
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize("options", [{"channels": 24}, {"channels": 0}, {"pam": "half"}, {"dafm": None}, {"reduce": 1}])
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        heads.from_dict({"name": "dfdam", **options})


def test_a_backbone_of_two_stages_is_refused() -> None:
    with pytest.raises(UsageError, match=r"2 feature maps.*three"):
        dfdam.Head(dfdam.Config(), FeatureSpec((8, 32), (8, 8)), 3)

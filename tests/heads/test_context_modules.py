"""The comparison heads and their context modules, against torchvision and against the formulas they stand for."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import deeplabv3
from torchvision.models.segmentation import fcn as torchvision_fcn

from measure import live_bytes
from naive.cgnl import generalised as all_pairs
from rayseg import heads, segmenter
from rayseg.backbone import Config as BackboneConfig
from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads._blocks import PooledBatchNorm, norm_layer, pooled_norm_layer
from rayseg.heads.aspp import Aspp, paper_rates
from rayseg.heads.cgnl import GROUPS, Cgnl, generalised
from rayseg.heads.fcn import Fcn
from rayseg.heads.nonlocal_net import NonLocal, Reduced
from rayseg.heads.psp import Ppm


def wake(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that a mistake would show in."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.9).sub_(0.3 if tensor.dim() > 1 else 0)
    return module.eval()


def transfer(source: nn.Module, target: nn.Module) -> None:
    """Copy tensors in order; both list their layers in the paper's order."""
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Fcn(32, 8, 5), torchvision_fcn.FCNHead(32, 5)),
        (Aspp(16, 256, (2, 4, 6), inner=256), deeplabv3.ASPP(16, [2, 4, 6])),
    ],
)
def test_equals_torchvision(ours: nn.Module, theirs: nn.Module) -> None:
    wake(theirs)
    transfer(theirs, ours)
    x = torch.randn(2, 16 if isinstance(ours, Aspp) else 32, 9, 11)
    torch.testing.assert_close(ours.eval()(x), theirs(x))


@pytest.mark.parametrize(("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_aspp_takes_the_papers_rates(stride: int, rates: tuple[int, ...]) -> None:
    assert paper_rates(stride) == rates


@pytest.mark.parametrize(
    ("head", "backbone", "params"),
    [("psp", "resnet101", 65_583_699), ("nonlocal_net", "resnet101s", 66_558_036)],
)
def test_parameters_of_the_papers_code(head: str, backbone: str, params: int) -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name=backbone), head=heads.from_dict({"name": head}), num_classes=19, auxiliary=False
    )
    assert sum(p.numel() for p in segmenter.skeleton(config).parameters()) == params


def test_psp_pools_by_its_bins() -> None:
    ppm = wake(Ppm(8, 4)).double()
    x = torch.randn(1, 8, 6, 12, dtype=torch.float64)
    levels = []
    for bins, level in zip((1, 2, 3, 6), ppm.levels, strict=True):
        means = x.reshape(1, 8, bins, 6 // bins, bins, 12 // bins).mean((3, 5))
        levels.append(functional.interpolate(level[1:](means), size=(6, 12), mode="bilinear"))
    torch.testing.assert_close(ppm(x), ppm.fuse(torch.cat([x, *levels], 1)))


def test_aspp_takes_the_rates_that_are_given_and_refuses_none() -> None:
    head = heads.build(heads.from_dict({"name": "aspp", "rates": [2, 5]}), FeatureSpec((8, 16), (8, 8)), 3)
    assert [m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)] == [2, 5]
    with pytest.raises(UsageError, match=r"rates = \[\].*at least 1"):
        heads.from_dict({"name": "aspp", "rates": []})


def test_nonlocal_is_a_softmax_over_all_pixels() -> None:
    block = wake(NonLocal(16)).double()
    x = torch.randn(2, 16, 4, 5, dtype=torch.float64)
    q, k, v = (layer(x).flatten(2) for layer in (block.query, block.key, block.value))
    affinity = torch.einsum("bci,bcj->bij", q, k).softmax(-1)
    expected = x + block.gamma * torch.einsum("bij,bcj->bci", affinity, v).view_as(x)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_nonlocal_keys_have_a_width_of_their_own() -> None:
    widths = {given: NonLocal(16, key_channels=given).key.out_channels for given in (None, 1, 16)}
    assert widths == {None: 2, 1: 1, 16: 16}
    block = wake(NonLocal(16, key_channels=16))
    assert block.query.weight.shape == (16, 16, 1, 1)
    assert block(torch.randn(1, 16, 3, 4)).shape == (1, 16, 3, 4)


def test_nonlocal_costs_what_the_denoised_nl_paper_counts() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        NonLocal(512)(torch.empty(1, 512, 48, 48))
    assert counter.get_total_flops() == pytest.approx(7.63e9, rel=2e-3)


@pytest.mark.parametrize(("size", "small"), [((9, 12), (3, 3)), ((5, 7), (2, 2)), ((1, 1), (1, 1))])
def test_nonlocal_on_a_reduced_map_is_nl_d(size: tuple[int, int], small: tuple[int, int]) -> None:
    block = wake(NonLocal(16)).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    reduced = Reduced(block, 4)(x)
    assert torch.equal(seen[0], functional.interpolate(x, size=small, mode="bilinear"))
    torch.testing.assert_close(reduced, functional.interpolate(block(seen[0]), size=size, mode="bilinear"))


def test_nonlocal_reduces_the_map_in_its_layout() -> None:
    spec = FeatureSpec((16, 32), (8, 8))

    def context(**options: int) -> nn.Module:
        config = heads.from_dict({"name": "nonlocal_net", **options})
        built = heads.build(config, spec, num_classes=3)
        assert built([torch.zeros(1, c, 9, 9) for c in spec.channels])["main"].shape == (1, 3, 9, 9)
        return built.layers.context

    assert isinstance(context(), NonLocal)
    assert isinstance(context(downsample=4), Reduced)
    with pytest.raises(UsageError, match="downsample"):
        context(downsample=0)


@pytest.mark.parametrize(("B", "C", "H", "W", "groups"), [(2, 16, 5, 3, 8), (1, 12, 4, 4, 3), (1, 8, 1, 1, 8)])
def test_cgnl_equals_the_affinity_of_all_pairs_with_every_gradient(B: int, C: int, H: int, W: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(B, C, H, W, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    upstream = torch.randn(B, C, H, W, dtype=torch.float64, generator=generator)
    lean, naive = (form(*maps, groups=groups) for form in (generalised, all_pairs))
    torch.testing.assert_close(lean, naive, rtol=1e-12, atol=1e-12)
    for ours, expected in zip(*(torch.autograd.grad(y, maps, upstream) for y in (lean, naive)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_cgnl_is_its_papers_block() -> None:
    block = wake(Cgnl(32)).double()
    x = torch.randn(2, 32, 5, 3, dtype=torch.float64)
    y = all_pairs(block.theta(x), block.phi(x), block.g(x), groups=GROUPS)
    torch.testing.assert_close(block(x), x + block.norm(block.expand(y)), rtol=1e-9, atol=1e-9)


def test_cgnl_keeps_maps_where_all_pairs_would_be_kept() -> None:
    maps = [torch.randn(1, 64, 6, 6).requires_grad_() for _ in range(3)]
    lean = live_bytes(functools.partial(generalised, groups=GROUPS), maps, training=True)
    assert lean.largest == maps[0].nbytes
    affinity = GROUPS * (64 // GROUPS * 36) ** 2 * 4
    assert live_bytes(functools.partial(all_pairs, groups=GROUPS), maps, training=True).peak > affinity
    assert lean.peak < affinity / 10


def test_cgnls_group_norm_leaves_only_the_sign_of_the_affinity() -> None:
    torch.manual_seed(0)
    block = Cgnl(32).double()
    x = 3 * torch.randn(4, 32, 9, 9, dtype=torch.float64)
    theta, phi, g = (f(x).unflatten(1, (GROUPS, -1)) for f in (block.theta, block.phi, block.g))
    sign = (phi * g).sum((2, 3, 4), keepdim=True).sign()
    assert {-1.0, 1.0} == set(sign.flatten().tolist())
    expected = x + block.norm(block.expand((sign * theta).flatten(1, 2)))
    torch.testing.assert_close(block(x), expected, rtol=1e-3, atol=1e-3)


def test_cgnl_says_how_large_images_must_be() -> None:
    config = segmenter.Config(
        backbone=BackboneConfig(name="resnet10t", output_stride=32),
        head=heads.from_dict({"name": "cgnl"}),
        num_classes=2,
    )
    net = segmenter.build(config).eval()
    with pytest.raises(UsageError, match=r"2x3 is too small.*at least 65 px"):
        net(torch.zeros(1, 3, 64, 96))
    assert net(torch.zeros(1, 3, 65, 96))["main"].shape == (1, 2, 65, 96)


def test_pooled_batch_norm_leaves_its_statistics_alone_for_a_single_value() -> None:
    norm, usual = PooledBatchNorm(3).train(), nn.BatchNorm2d(3).train()
    one = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    assert torch.equal(norm(one), usual.eval()(one))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    several = torch.randn(2, 3, 1, 1)
    assert torch.equal(norm(several), usual.train()(several))
    assert not torch.equal(norm.running_mean, torch.zeros(3))


@pytest.mark.parametrize("channels", [2, 16, 32, 48, 512])
def test_pooled_group_norm_has_two_values_to_a_group(channels: int) -> None:
    norm = pooled_norm_layer("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm(torch.arange(channels, dtype=torch.float32).view(1, -1, 1, 1)).any()
    if channels <= 32:
        with pytest.raises(ValueError, match="more than 1 value"):
            norm_layer("group", channels)(torch.zeros(1, channels, 1, 1))

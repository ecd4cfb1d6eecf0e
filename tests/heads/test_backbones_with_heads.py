"""Every head on backbones outside the ResNets, as they come: strides 4 to 32, nothing dilated."""

from __future__ import annotations

import pytest
import torch
from test_contract import NUM_CLASSES, criterion, every_head, images, labels, model
from torch.nn.parallel import DistributedDataParallel

from rayseg import segmenter
from rayseg.errors import UsageError

SIZE = (65, 97)


def assert_trains(name: str, backbone: str) -> None:
    net = model(name, on=backbone, output_stride=32).train()
    assert net.backbone.spec.strides == (4, 8, 16, 32)
    outputs = net(images(2, *SIZE))
    assert all(logits.shape[2:] == SIZE for logits in outputs.values())
    loss = criterion(net)(outputs, labels(2, *SIZE))["loss"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    gradients = {n: p.grad for n, p in net.named_parameters()}
    assert not [n for n, gradient in gradients.items() if gradient is None], "DistributedDataParallel would refuse it"
    assert not [n for n, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    assert bool(next(net.backbone.parameters()).grad.any())
    with torch.inference_mode():
        assert net.eval()(images(1, *SIZE))["main"].shape == (1, NUM_CLASSES, *SIZE)


@every_head
@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet"])
def test_convolutional_backbones(name: str, backbone: str) -> None:
    assert_trains(name, backbone)


@every_head
def test_a_hierarchical_transformer(name: str) -> None:
    assert_trains(name, "pvt_v2_b0")


@pytest.mark.parametrize("name", ["gald", "dfn"])
def test_a_transformer_with_channels_last(name: str) -> None:
    assert_trains(name, "swin_tiny_patch4_window7_224")


HRNET = "hrnet_w18_small"


@pytest.mark.parametrize(("name", "frozen"), [("fcn", 42), ("gald", 42), ("dfdam", 21), ("dfn", 0)])
def test_what_no_output_depends_on_is_left_out_of_training(name: str, frozen: int, single_rank: None) -> None:
    """HRNet's deepest maps are fused from all branches; what makes a map that the head leaves out trains nothing."""
    net = model(name, on=HRNET, output_stride=32).train()
    out = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert len(out) == frozen
    assert all(n.startswith(("backbone.model.stage4.0.fuse_layers", "backbone.model.incre_modules")) for n in out)
    loss, ranks = criterion(net), DistributedDataParallel(net)
    for _ in range(2):  # a parameter without a gradient would be refused in the second
        loss(ranks(images(2, 65, 65)), labels(2, 65, 65))["loss"].backward()
    assert {n for n, p in net.named_parameters() if p.grad is None} == out


@every_head
def test_all_of_a_resnet_trains(name: str) -> None:
    """Whatever stages a head reads: each feeds the next."""
    assert all(p.requires_grad for p in model(name).parameters())


def test_looking_for_what_trains_draws_no_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    net, states = model("gald").train(), []
    for known in (segmenter._UNUSED, {}):
        monkeypatch.setattr(segmenter, "_UNUSED", known)
        torch.manual_seed(5)
        assert segmenter.unused(net) == frozenset()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_what_a_function_recomputes_inside_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph shows no parameter inside a re-entrant checkpoint."""
    from torch.utils.checkpoint import checkpoint

    monkeypatch.setattr(segmenter, "_UNUSED", {})
    net = model("fcn").train()
    stage = net.backbone.model.layer4
    inside = stage.forward
    stage.forward = lambda x: checkpoint(inside, x, use_reentrant=True)
    assert segmenter._without_gradient(net.to("meta")) == frozenset()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_batch_norm_of_a_single_value_is_refused_in_one_line(backbone: str) -> None:
    """In the backbone, or (with a backbone of layer norms) in the head."""
    net = model("fcn", on=backbone, output_stride=32).train()
    with pytest.raises(UsageError, match=r"one value per channel: 1 image of 32x32 px.*larger augment\.crop_px"):
        net(images(1, 32, 32))
    assert net(images(2, 32, 32))["main"].shape == (2, NUM_CLASSES, 32, 32)

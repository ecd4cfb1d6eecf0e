"""Every head on backbones outside the ResNets, as they come: strides 4 to 32, nothing dilated."""

from __future__ import annotations

import pytest
import torch
from test_contract import NUM_CLASSES, criterion, every_head, images, labels, model

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

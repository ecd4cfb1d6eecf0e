"""Every head learns eight scenes by heart: its gradients go where they should, its logits are of the right classes.

Scenes are drawn at the logits' resolution and enlarged, so that a head at stride 8 can say every pixel. What is only
a little wrong is found by the tests of formulas and gradients; what fails here cannot learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import rayseg
from rayseg import heads, losses
from rayseg.data import scenes
from rayseg.data.scenes.canvas import VOID
from rayseg.losses import SegmentationLoss
from rayseg.metrics import ConfusionMatrix
from rayseg.segmenter import Segmenter
from rayseg.train.step import to_device

NUM_CLASSES = 11
GOAL, EACH = 0.9, 0.5  # of the mean IoU, and of every class: 11 classes reach 0.9 with one never found
STEPS = 150  # the slowest head needs about half of them
EVERY = 10


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Eight scenes (8,3,64,96) and their masks, in blocks of 8 x 8 pixels."""
    drawn = [scenes.draw(0, index, height=8, width=12) for index in range(8)]
    pixels, masks = (np.stack(each).repeat(8, 1).repeat(8, 2) for each in zip(*drawn, strict=True))
    assert set(range(NUM_CLASSES)) <= set(np.unique(masks))
    target = torch.from_numpy(masks).long()
    return to_device(pixels, torch.device("cpu"), channels_last=False), target.masked_fill(target == VOID, 255)


def build(name: str) -> Segmenter:
    """Build the head with 64 channels, where they can be chosen, and without dropout: nothing is to be forgotten."""
    torch.manual_seed(0)
    given = {"channels": 64} if "channels" in heads.config_class(name).model_fields else {}
    net = rayseg.create(name, backbone="test_resnet", num_classes=NUM_CLASSES, **given)
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return net


def steps_to_goal(net: Segmenter, images: Tensor, target: Tensor, *, at_most: int = STEPS) -> int | None:
    """Train until the IoU in evaluation mode is above the goals; None where it never is."""
    criterion = SegmentationLoss(
        losses.Config(),
        ignore_index=255,
        weights=net.loss_weights(),
        borders=net.border_outputs,
        num_classes=NUM_CLASSES,
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1) * (1 - step / STEPS))
    for step in range(1, at_most + 1):
        optimizer.zero_grad()
        criterion(net.train()(images), target)["loss"].backward()
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            found = iou(net, images, target)
            if found.mean() > GOAL and found.min() > EACH:
                return step
    return None


def iou(net: Segmenter, images: Tensor, target: Tensor) -> NDArray[np.float64]:
    matrix = ConfusionMatrix(NUM_CLASSES)
    with torch.inference_mode():
        matrix.update(net.eval()(images)["main"].argmax(1).numpy(), target.numpy())
    return matrix.iou()


@pytest.mark.parametrize("name", heads.names())
def test_a_head_overfits_eight_scenes(name: str, batch: tuple[Tensor, Tensor]) -> None:
    assert steps_to_goal(build(name), *batch)


def gradient_cut(net: Segmenter) -> None:
    net.head.layers[0].register_forward_hook(lambda layer, given, maps: maps.detach())


def classes_shifted(net: Segmenter) -> None:
    net.head.register_forward_hook(lambda head, given, logits: logits if head.training else rolled(logits))


def rolled(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.roll(1, 1) for name, x in logits.items()}


def class_never_found(net: Segmenter) -> None:
    last = torch.arange(NUM_CLASSES)[:, None, None] == NUM_CLASSES - 1
    net.head.register_forward_hook(lambda head, given, logits: {n: x.masked_fill(last, -99) for n, x in logits.items()})


@pytest.mark.parametrize("fault", [gradient_cut, classes_shifted, class_never_found])
def test_a_faulty_head_does_not(fault: Callable[[Segmenter], None], batch: tuple[Tensor, Tensor]) -> None:
    net = build("fcn")
    fault(net)
    assert steps_to_goal(net, *batch, at_most=80) is None

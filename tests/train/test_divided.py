"""Micro-batches give the gradients of the undivided batch, whatever the loss; in float64, so that rounding is small."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayseg.losses import Config, SegmentationLoss
from rayseg.train import divided
from rayseg.train.divided import Work

CLASSES, IGNORED, IMAGES = 4, 255, 5


class Net(nn.Module):
    """Three outputs, one of them of borders; every kind of layer that may depend on what stands beside a sample."""

    def __init__(self, norm: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, nn.ReLU(), nn.Dropout2d(dropout))
        self.outputs = nn.ModuleDict({"main": nn.Conv2d(6, CLASSES, 1), "own": nn.Conv2d(6, CLASSES, 1)})
        self.outputs["edge"] = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: layer(features) for name, layer in self.outputs.items()}


def net(norm: nn.Module | None = None, dropout: float = 0.0) -> Net:
    torch.manual_seed(0)
    return Net(norm or nn.GroupNorm(2, 6), dropout).double()


def work() -> Work:
    """Give images whose shares of ignored pixels differ, one without any label."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (IMAGES, 8, 8), generator=generator)
    target[torch.rand(target.shape, generator=generator) < torch.linspace(0, 0.9, IMAGES)[:, None, None]] = IGNORED
    target[2] = IGNORED
    return Work(images, target, lambda part: torch.manual_seed(part), lambda loss: 8 * loss, torch.float32)


LOSSES: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "class weights": {"class_weights": [0.1, 1.0, 5.0, 2.0]},
    "focal": {"kind": "focal"},
    "an output without weight": {"weights": {"own": 0.0}},
    "borders of ignored pixels too": {"border_legacy_ignore": True},
    "ohem": {"ohem": True, "ohem_threshold": 0.3, "ohem_min_kept": 40},
    "dice": {"dice_weight": 0.7},
    "lovasz": {"lovasz_weight": 0.7, "class_weights": [0.1, 1.0, 5.0, 2.0]},
}


def criterion(name: str) -> SegmentationLoss:
    config = Config.model_validate(LOSSES[name])
    weights = {"own": 0.4, "edge": 2.0}
    return SegmentationLoss(config, ignore_index=IGNORED, weights=weights, borders=["edge"], num_classes=CLASSES)


def computed(parts: int, loss: str, on: Net | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = on or net()
    losses = divided.backward(model, criterion(loss), work(), parts)
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_the_undivided_batch(loss: str, parts: int) -> None:
    (whole, gradients), (found, shares) = computed(1, loss), computed(parts, loss)
    assert whole.keys() == found.keys()
    assert all(not value.requires_grad for value in found.values())
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=0)
    torch.testing.assert_close(shares, gradients, rtol=1e-9, atol=1e-12)


def test_a_mean_of_the_parts_means_is_something_else() -> None:
    """The batch is one that tells right from wrong."""
    _, gradients = computed(1, "cross-entropy")
    model, all_of = net(), work()
    for images, target in zip(all_of.images.tensor_split(5), all_of.target.tensor_split(5), strict=True):
        (8 * criterion("cross-entropy")(model(images), target)["loss"] / 5).backward()
    wrong = max(
        float((p.grad - gradients[n]).abs().max() / gradients[n].abs().max()) for n, p in model.named_parameters()
    )
    assert wrong > 0.1


@pytest.mark.parametrize("loss", ["cross-entropy", "ohem", "dice"])
def test_each_part_has_its_own_dropout_and_statistics_and_moves_them_once(loss: str) -> None:
    """Both ways equal one graph over parts that are seeded and normed one by one."""
    found, expected = (net(nn.BatchNorm2d(6), dropout=0.5) for _ in range(2))
    _, shares = computed(2, loss, found)
    each = work()
    outputs = [each.outputs(expected, images, part) for part, images, _ in divided._parts(each, 2)]
    joined = {name: torch.cat([one[name] for one in outputs]) for name in outputs[0]}
    (8 * criterion(loss)(joined, each.target)["loss"]).backward()
    torch.testing.assert_close(shares, {name: p.grad for name, p in expected.named_parameters()}, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dict(found.named_buffers()), dict(expected.named_buffers()))
    assert int(found.trunk[1].num_batches_tracked) == 2


def test_gradients_are_added_to_those_that_are_there() -> None:
    model = net()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    _, gradients = computed(1, "ohem")
    _, added = computed(2, "ohem", model)
    torch.testing.assert_close(added, {name: 1 + grad for name, grad in gradients.items()})

"""Losses against numpy, torchvision and their definitions, and over several ranks against one."""

from __future__ import annotations

import itertools
import math
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from rayseg import losses
from rayseg.borders import border_targets
from rayseg.errors import DataError, UsageError
from rayseg.losses import Config, SegmentationLoss, border_focal, focal, kth_largest
from rayseg.schema import parse, to_dict

IGNORE = 11
NUM_CLASSES = 5


BY_CLASS = (0.5, 2.0, 0.0, 1.25, 3.0)


def criterion(
    own: dict[str, float] | None = None, /, *, borders: tuple[str, ...] = (), **config: Any
) -> SegmentationLoss:
    parsed = parse(Config, config, "loss")
    return SegmentationLoss(parsed, ignore_index=IGNORE, weights=own or {}, borders=borders)


def sample(batch: int = 3, size: int = 8, *, seed: int = 0, ignored: float = 0.3) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, NUM_CLASSES, size, size)
    logits = {n: 3 * torch.randn(shape, generator=generator, dtype=torch.float64) for n in ("main", "aux", "own")}
    target = torch.randint(NUM_CLASSES, (batch, size, size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return {name: x.requires_grad_() for name, x in logits.items()}, target


def true_probabilities(logits: Tensor, target: Tensor) -> np.ndarray:
    """Probability of the true class at every pixel that is not ignored, flat."""
    x = logits.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, NUM_CLASSES)
    t = target.numpy().ravel()
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    return p[t != IGNORE, t[t != IGNORE]]


def probabilities(logits: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (pixels, classes) and labels (pixels) that are not ignored."""
    x = logits.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, NUM_CLASSES)
    t = target.numpy().ravel()
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    return p[t != IGNORE], t[t != IGNORE]


# --- one rank -------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_valid_pixels() -> None:
    outputs, target = sample()
    result = criterion({"own": 0.1}, aux_weight=0.4)(outputs, target)
    expected = {name: -np.log(true_probabilities(x, target)).mean() for name, x in outputs.items()}
    assert list(result) == ["loss", "main", "aux", "own"]
    for name, value in expected.items():
        assert result[name].item() == pytest.approx(value, rel=1e-12)
        assert not result[name].requires_grad
    total = expected["main"] + 0.4 * expected["aux"] + 0.1 * expected["own"]
    assert result["loss"].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("min_kept", [1, 20, 100, 10_000])
def test_ohem_equals_a_sort(threshold: float, min_kept: int) -> None:
    outputs, target = sample(ignored=0.4)
    result = criterion({"own": 0.0}, ohem=True, ohem_threshold=threshold, ohem_min_kept=min_kept)(outputs, target)
    p = np.sort(true_probabilities(outputs["main"], target))
    limit = max(threshold, p[min(min_kept, p.size) - 1])
    kept = p[p <= limit]
    assert kept.size >= min(min_kept, p.size)
    assert result["main"].item() == pytest.approx(-np.log(kept).mean(), rel=1e-12)
    plain = -np.log(true_probabilities(outputs["aux"], target)).mean()
    assert result["aux"].item() == pytest.approx(plain, rel=1e-12)
    result["loss"].backward()
    learns = outputs["main"].grad.abs().sum(1) > 0
    assert int(learns.sum()) == kept.size


def test_ohem_keeps_its_minimum_where_all_pixels_are_equally_easy() -> None:
    logits = torch.zeros(1, NUM_CLASSES, 4, 4)
    logits[:, 0] = 10.0
    result = criterion(ohem=True, ohem_min_kept=5)({"main": logits}, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert result["main"].item() == pytest.approx(math.log(1 + 4 * math.exp(-10.0)), rel=1e-3)


EVERYTHING = {"kind": "focal", "class_weights": BY_CLASS, "dice_weight": 1.0, "lovasz_weight": 1.0}


@pytest.mark.parametrize("config", [{}, EVERYTHING])
@pytest.mark.parametrize("ohem", [False, True])
def test_a_batch_without_a_valid_pixel_gives_zero_and_zero_gradients(ohem: bool, config: dict[str, Any]) -> None:
    outputs, target = sample()
    outputs["border"] = outputs["main"].detach()[:, :1].clone().requires_grad_()
    loss = criterion({"own": 1.0, "border": 1.0}, borders=("border",), ohem=ohem, ohem_min_kept=10, **config)
    result = loss(outputs, torch.full_like(target, IGNORE))
    assert all(value.item() == 0 for value in result.values())
    result["loss"].backward()
    assert all(x.grad is not None and not x.grad.any() for x in outputs.values())


def test_ignored_pixels_get_no_gradient() -> None:
    outputs, target = sample()
    criterion({"own": 1.0}, ohem=True, ohem_min_kept=10_000)(outputs, target)["loss"].backward()
    for x in outputs.values():
        assert torch.equal(x.grad.abs().sum(1) > 0, target != IGNORE)


def test_bf16_logits_are_computed_in_float32() -> None:
    outputs, target = sample()
    rough = {name: x.detach().bfloat16() for name, x in outputs.items()}
    result = criterion({"own": 0.0})(rough, target)["loss"]
    exact = criterion({"own": 0.0})({name: x.double() for name, x in rough.items()}, target)["loss"]
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, t: (o, t.int()), r"target is torch.int32 .*\.long\(\)"),
        (lambda o, t: (o, t[:, :4]), r"target is \(3, 4, 8\)"),
        (lambda o, t: (o | {"aux": o["aux"][:, :3]}, t), r"aux is \(3, 3, 8, 8\)"),
        (lambda o, t: (o | {"edge": o["aux"]}, t), "output 'edge' has no weight"),
        (lambda o, t: ({"aux": o["aux"]}, t), "no 'main'"),
        (lambda o, t: (o | {"main": o["main"].long()}, t), "main is torch.int64"),
    ],
)
def test_misfits_are_said_clearly(change: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criterion({"own": 1.0})(*change(*sample()))


@pytest.mark.parametrize("label", [NUM_CLASSES, 255, -1])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    outputs, target = sample()
    target[0, 0, 0] = label
    with pytest.raises(DataError, match=rf"label {label} is no class .*0\.\.4, or 11"):
        criterion({"own": 1.0})(outputs, target)


@pytest.mark.parametrize(
    "config",
    [
        {"aux_weight": -0.1},
        {"ohem_threshold": 1.0},
        {"ohem_min_kept": 0},
        {"focal_gamma": -1.0, "kind": "focal"},
        {"class_weights": [1.0, -1.0]},
        {"class_weights": [0.0, 0.0]},
        {"class_weights": []},
        {"weights": {"own": -1.0}},
        {"border_width": 4},
        {"border_alpha": 1.0},
        {"kind": "dice"},
    ],
)
def test_values_out_of_range_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(config))):
        parse(Config, config, "loss")


def test_kth_largest_is_the_sorts() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for k in (1, 7, 50):
        assert kth_largest(values, k) == values.sort(descending=True).values[k - 1]
    assert kth_largest(values, 51) == -math.inf


# --- class weights, focal, Dice, Lovász -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main", "aux", "own"])
def test_class_weights_are_torchs(name: str) -> None:
    outputs, target = sample()
    result = criterion({"own": 1.0}, class_weights=BY_CLASS)(outputs, target)
    weights = torch.tensor(BY_CLASS, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(outputs[name], target, weight=weights, ignore_index=IGNORE)
    assert result[name].item() == pytest.approx(expected.item(), rel=1e-12)


def test_weights_well_below_one_do_not_shrink_the_loss() -> None:
    outputs, target = sample(batch=1, size=2, ignored=0.0)
    plain = criterion({"own": 0.0})(outputs, target)["main"]
    scaled = criterion({"own": 0.0}, class_weights=[1e-3] * NUM_CLASSES)(outputs, target)["main"]
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-9)


def test_a_class_of_weight_zero_teaches_nothing() -> None:
    outputs, target = sample()
    criterion({"own": 1.0}, class_weights=BY_CLASS)(outputs, target)["loss"].backward()
    silent = (target == IGNORE) | (target == 2)
    assert all(torch.equal(x.grad.abs().sum(1) == 0, silent) for x in outputs.values())


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("min_kept", [1, 60])
def test_ohem_chooses_by_probability_and_weighs_what_it_chose(kind: str, min_kept: int) -> None:
    outputs, target = sample()
    options = {"kind": kind, "class_weights": BY_CLASS, "ohem": True, "ohem_threshold": 0.05}
    result = criterion({"own": 0.0}, ohem_min_kept=min_kept, **options)(outputs, target)
    p, t = probabilities(outputs["main"], target)
    true = p[np.arange(t.size), t]
    kept = true <= max(0.05, np.sort(true)[min_kept - 1])
    loss = -np.log(true) * ((1 - true) ** 2 if kind == "focal" else 1)
    weights = np.array(BY_CLASS)[t] * kept
    assert 0 < kept.sum() < t.size
    assert result["main"].item() == pytest.approx((loss * weights).sum() / weights.sum(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_its_formula(gamma: float) -> None:
    outputs, target = sample()
    result = criterion({"own": 0.0}, kind="focal", focal_gamma=gamma, focal_alpha=0.3)(outputs, target)
    for name in ("main", "aux"):
        p = true_probabilities(outputs[name], target)
        assert result[name].item() == pytest.approx((0.3 * (1 - p) ** gamma * -np.log(p)).mean(), rel=1e-10)


def test_focal_defaults_are_the_papers() -> None:
    config = parse(Config, {"kind": "focal"}, "loss")
    assert (config.focal_gamma, config.focal_alpha) == (2.0, 1.0)
    assert parse(Config, to_dict(config), "loss") == config


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_focal_has_finite_gradients_where_the_model_is_certain(gamma: float, scale: float) -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).mul(scale).requires_grad_()
    cross_entropy = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    focal(cross_entropy, gamma, 1.0).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0.25, 0.9, "none"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_border_focal_is_torchvisions(gamma: float, alpha: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (5 * torch.randn(2, 7, 9, generator=generator, dtype=torch.float64)).requires_grad_()
    y = torch.rand(x.shape, generator=generator) < 0.3
    ours = border_focal(x, y, gamma=gamma, alpha=alpha)
    theirs = sigmoid_focal_loss(x, y.double(), alpha=-1 if alpha == "none" else alpha, gamma=gamma)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_border_focal_pushes_each_logit_towards_its_truth(gamma: float) -> None:
    x = torch.linspace(-6, 6, 121).repeat(2, 1).requires_grad_()
    border = torch.tensor([[True], [False]]).expand_as(x)
    loss = border_focal(x, border, gamma=gamma)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert (loss > 0).all()
    assert (slope[0] < 0).all()
    assert (slope[1] > 0).all()


def test_border_focal_is_finite_at_any_logit() -> None:
    x = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4]).repeat(2, 1).requires_grad_()
    loss = border_focal(x, torch.tensor([[True], [False]]).expand_as(x), gamma=0.5)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert x.grad.isfinite().all()
    assert loss[0, 0].item() == pytest.approx(0.25e4)


def sigmoid_focal_loss(x: Tensor, y: Tensor, **options: float) -> Tensor:
    """Torchvision's; imported here, because the ranks below need not wait for it."""
    from torchvision import ops

    return ops.sigmoid_focal_loss(x, y, **options)


def naive_dice(p: np.ndarray, t: np.ndarray) -> dict[int, float]:
    found = {}
    for c in np.unique(t):
        both = sum(p[i, c] for i in range(t.size) if t[i] == c)
        found[int(c)] = 1 - 2 * both / (sum(p[:, c]) + sum(t == c))
    return found


def naive_lovasz(p: np.ndarray, t: np.ndarray) -> dict[int, float]:
    """The extension of the Jaccard loss, a function of the set of wrong pixels, written out."""
    found = {}
    for c in np.unique(t):
        truth = set(np.flatnonzero(t == c))

        def jaccard(wrong: set[int], truth: set[int] = truth) -> float:
            return len(wrong) / len(truth | wrong) if wrong else 0.0

        errors = np.abs((t == c) - p[:, c])
        order = np.argsort(-errors)
        sets = [set(order[:i].tolist()) for i in range(t.size + 1)]
        gains = [jaccard(after) - jaccard(before) for before, after in itertools.pairwise(sets)]
        found[int(c)] = float(errors[order] @ gains)
    return found


@pytest.mark.parametrize("by_class", [None, BY_CLASS])
@pytest.mark.parametrize(("name", "naive"), [("dice", naive_dice), ("lovasz", naive_lovasz)])
def test_overlap_losses_are_their_definition(name: str, naive: Any, by_class: tuple[float, ...] | None) -> None:
    outputs, target = sample(seed=1)
    target[target == 3] = 1  # class 3 is not there: it does not count
    extra = {} if by_class is None else {"class_weights": by_class}
    result = criterion({"own": 1.0}, **{f"{name}_weight": 0.7}, **extra)(outputs, target)
    plain = criterion({"own": 1.0}, **extra)(outputs, target)
    losses_of = naive(*probabilities(outputs["main"], target))
    assert set(losses_of) == {0, 1, 2, 4}
    weight = {c: 1.0 if by_class is None else by_class[c] for c in losses_of}
    expected = sum(weight[c] * loss for c, loss in losses_of.items()) / sum(weight.values())
    assert result[name].item() == pytest.approx(expected, rel=1e-10)
    assert result["main"].item() == pytest.approx(plain["main"].item() + 0.7 * expected, rel=1e-10)
    assert result["loss"].item() == pytest.approx(plain["loss"].item() + 0.7 * expected, rel=1e-10)
    assert result["aux"].item() == plain["aux"].item()


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    _, target = sample(seed=2)
    predicted = torch.randint(NUM_CLASSES, target.shape, generator=torch.Generator().manual_seed(3))
    p = torch.nn.functional.one_hot(predicted, NUM_CLASSES).permute(0, 3, 1, 2).double()
    valid = target != IGNORE
    by_lovasz, _ = losses.lovasz(p, target, valid)
    by_dice, _ = losses.dice(p, target, valid)
    for c in range(NUM_CLASSES):
        a, b = (predicted == c) & valid, (target == c) & valid
        iou = ((a & b).sum() / (a | b).sum()).item()
        assert by_lovasz[c].item() == pytest.approx(1 - iou, abs=1e-6)
        assert by_dice[c].item() == pytest.approx(1 - 2 * iou / (1 + iou), abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_overlap_losses_have_the_numeric_gradient(name: str) -> None:
    outputs, target = sample(batch=1, size=4)
    loss = criterion(**{f"{name}_weight": 1.0})
    assert torch.autograd.gradcheck(lambda x: loss({"main": x}, target)["loss"], [outputs["main"]])


def test_overlap_losses_leave_ignored_pixels_out() -> None:
    outputs, target = sample()
    loss = criterion(dice_weight=1.0, lovasz_weight=1.0)
    first = loss({"main": outputs["main"]}, target)
    noise = torch.where(target[:, None] == IGNORE, 9 * torch.randn_like(outputs["main"]), 0)
    second = loss({"main": outputs["main"] + noise}, target)
    assert all(second[name].item() == pytest.approx(value.item(), rel=1e-12) for name, value in first.items())


# --- outputs and their weights --------------------------------------------------------------------------------------


def with_borders() -> tuple[dict[str, Tensor], Tensor]:
    outputs, target = sample(size=24)
    for name in ("border_1", "border_2"):
        noise = torch.randn(3, 1, 24, 24, generator=torch.Generator().manual_seed(len(outputs)), dtype=torch.float64)
        outputs[name] = noise.requires_grad_()
    coarse = target[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    return outputs, torch.where(target == IGNORE, IGNORE, coarse)


OWN = {"own": 1.0, "border_1": 0.1, "border_2": 0.1}
BORDERS = ("border_1", "border_2")


@pytest.mark.parametrize(
    ("config", "target_options", "gamma", "alpha"),
    [
        ({}, {}, 2.0, 0.25),
        ({"border_gamma": 1.0, "border_alpha": "none"}, {}, 1.0, -1),
        ({"border_alpha": 0.6, "border_width": 3}, {"width": 3}, 2.0, 0.6),
        ({"border_edges": "canny", "border_legacy_ignore": True}, {"edges": "canny", "legacy_ignore": True}, 2.0, 0.25),
    ],
)
def test_border_outputs_learn_borders(config: Any, target_options: Any, gamma: float, alpha: float) -> None:
    outputs, target = with_borders()
    result = criterion(OWN, borders=BORDERS, **config)(outputs, target)
    border, valid = border_targets(target, ignore_index=IGNORE, **target_options)
    assert 0.05 < border[valid].double().mean().item() < 0.95
    for name in BORDERS:
        each = sigmoid_focal_loss(outputs[name][:, 0], border.double(), alpha=alpha, gamma=gamma)
        assert result[name].item() == pytest.approx(each[valid].mean().item(), rel=1e-9)
    total = result["main"] + 0.4 * result["aux"] + result["own"] + 0.1 * (result["border_1"] + result["border_2"])
    assert result["loss"].item() == pytest.approx(total.item(), rel=1e-12)


def test_weights_are_the_configs_where_it_has_any() -> None:
    outputs, target = with_borders()
    config = {"weights": {"own": 0.3, "border_2": 7.0, "main": 2.0}, "border_weight": 0.5, "aux_weight": 0.2}
    result = criterion(OWN, borders=BORDERS, **config)(outputs, target)
    weights = {"main": 2.0, "aux": 0.2, "own": 0.3, "border_1": 0.5, "border_2": 7.0}
    assert result["loss"].item() == pytest.approx(sum(w * result[n].item() for n, w in weights.items()), rel=1e-12)


@pytest.mark.parametrize("name", ["main", "aux", "own", "border_1"])
def test_an_output_of_weight_zero_has_zero_gradient_whatever_it_holds(name: str) -> None:
    outputs, target = with_borders()
    with torch.no_grad():
        outputs[name][:, :, ::2] = math.nan
    zero = {"aux_weight": 0.0} if name == "aux" else {"weights": {name: 0.0}}
    result = criterion(OWN, borders=BORDERS, **zero)(outputs, target)
    result["loss"].backward()
    assert name not in result
    assert all(value.isfinite() for value in result.values())
    for other, x in outputs.items():
        assert x.grad is not None  # DistributedDataParallel waits for every parameter
        assert x.grad.isfinite().all()
        assert bool(x.grad.any()) == (other != name)


@pytest.mark.parametrize(
    ("borders", "config", "message"),
    [
        (BORDERS, {"weights": {"onw": 1.0}}, r"no output 'onw' \(loss.weights.onw\): did you mean 'own'.*main"),
        (BORDERS, {"weights": {"aux": 1.0}}, "set loss.aux_weight"),
        ((), {"border_gamma": 1.0}, "border_gamma would be ignored.*dfn"),
        ((), {"border_weight": 0.0}, "border_weight would be ignored"),
        ((), {"border_legacy_ignore": False}, "border_legacy_ignore would be ignored"),
        (BORDERS, {"border_width": 3, "border_weight": 0.0}, "border_width would be ignored: no border output has"),
        (BORDERS, {"border_gamma": 1.0, "weights": dict.fromkeys(BORDERS, 0.0)}, "border_gamma would be ignored"),
        (BORDERS, {"focal_gamma": 1.0}, "focal_gamma = 1.0 would be ignored with kind = cross_entropy"),
        (BORDERS, {"focal_alpha": 1.0, "kind": "cross_entropy"}, "focal_alpha = 1.0 would be ignored"),
    ],
)
def test_settings_of_what_is_not_there_are_refused(borders: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        criterion(OWN, borders=borders, **config)


def test_a_border_output_of_its_own_weight_reads_the_border_options() -> None:
    config = {"border_weight": 0.0, "border_width": 3, "weights": {"border_2": 0.1}}
    assert criterion(OWN, borders=BORDERS, **config).weights["border_2"] == 0.1


def test_a_loss_that_trains_nothing_is_refused() -> None:
    nothing = {"weights": {"main": 0.0}, "aux_weight": 0.0}
    with pytest.raises(UsageError, match=r"no output has a weight.*loss\.weights\.main"):
        criterion(**nothing)
    with pytest.raises(UsageError, match="no output has a weight"):
        criterion({"own": 1.0}, **(nothing | {"weights": {"main": 0.0, "own": 0.0}}))
    criterion({"own": 1.0}, **nothing)
    outputs, target = sample()
    loss = criterion(weights={"main": 0.0})  # of "aux" alone, which some heads have not
    assert loss({n: outputs[n] for n in ("main", "aux")}, target)["loss"].item() > 0
    with pytest.raises(UsageError, match="no output has a weight"):
        loss({"main": outputs["main"]}, target)
    with torch.no_grad():  # nothing is to be trained
        assert loss({"main": outputs["main"]}, target)["loss"].item() == 0


def test_the_classes_are_checked_before_the_first_batch() -> None:
    config = parse(Config, {"class_weights": [1.0, 2.0]}, "loss")
    with pytest.raises(UsageError, match="2 class weights for 5 classes"):
        SegmentationLoss(config, ignore_index=IGNORE, weights={}, num_classes=NUM_CLASSES)
    with pytest.raises(UsageError, match="ignore_index = 4 is a class"):
        SegmentationLoss(Config(), ignore_index=4, weights={}, num_classes=NUM_CLASSES)
    for ignore_index in (-1, 5, 255):
        SegmentationLoss(Config(), ignore_index=ignore_index, weights={}, num_classes=NUM_CLASSES)
    outputs, target = sample()
    with pytest.raises(UsageError, match="2 class weights for 5 classes"):
        SegmentationLoss(config, ignore_index=IGNORE, weights={"own": 1.0})(outputs, target)


# --- labels on a device that is not asked in every step -------------------------------------------------------------


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a GPU: reading a value would wait."""
    monkeypatch.setattr(losses, "_reads_at_once", lambda _: False)


@pytest.mark.usefixtures("queued")
def test_a_gpu_is_asked_for_wrong_labels_at_the_first_batch() -> None:
    outputs, target = sample()
    target[0, 0, 0] = NUM_CLASSES
    with pytest.raises(DataError, match="label 5 is no class"):
        criterion({"own": 1.0})(outputs, target)


@pytest.mark.usefixtures("queued")
@pytest.mark.parametrize("label", [NUM_CLASSES, 255, -1])
def test_later_wrong_labels_are_ignored_until_check_raises_them(label: int) -> None:
    outputs, target = sample()
    loss = criterion({"own": 1.0}, dice_weight=1.0, class_weights=BY_CLASS)
    loss(outputs, target)
    loss.check()
    wrong, ignored = target.clone(), target.clone()
    wrong[0, 0], ignored[0, 0] = label, IGNORE
    assert loss(outputs, wrong)["loss"].item() == loss(outputs, ignored)["loss"].item()
    loss(outputs, target)
    with pytest.raises(DataError, match=f"label {label} is no class.*or 11 to ignore"):
        loss.check()


def test_on_the_cpu_check_has_nothing_to_say() -> None:
    loss = criterion({"own": 1.0})
    loss(*sample())
    loss.check()


# --- two ranks ------------------------------------------------------------------------------------------------------

PARTS = (2, 1)  # images of each rank; the second rank has less, and much more of it is ignored
CASES: list[dict[str, Any]] = [
    {},
    {"ohem": True, "ohem_min_kept": 5},  # the threshold decides
    {"ohem": True, "ohem_threshold": 1e-5, "ohem_min_kept": 40},  # the k-th hardest of all ranks decides
    {"ohem": True, "ohem_threshold": 1e-5, "ohem_min_kept": 10_000},  # fewer pixels than the minimum
    {"class_weights": BY_CLASS, "ohem": True, "ohem_min_kept": 5},
    {"class_weights": BY_CLASS, "kind": "focal", "border_weight": 0.7},
    {"dice_weight": 1.0},
    {"lovasz_weight": 1.0},
    {"dice_weight": 0.5, "lovasz_weight": 0.5, "class_weights": BY_CLASS, "weights": {"own": 0.0}},
]
WEIGHTS = {"own": 0.1, "border": 0.1}


def global_batch(*, second_ignored: bool) -> tuple[dict[str, Tensor], Tensor]:
    outputs, target = sample(batch=sum(PARTS), ignored=0.1)
    outputs["border"] = outputs["aux"].detach()[:, :1].clone().requires_grad_()
    hard = target[PARTS[0] :]
    hard[:, :6] = IGNORE
    if second_ignored:
        hard[:] = IGNORE
    return outputs, target


def rank_main(rank: int, folder: str, port: int) -> None:
    """Compute every case on this rank's part; keep values and gradients for the test to compare."""
    torch.set_num_threads(1)
    rendezvous = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    start = sum(PARTS[:rank])
    mine = slice(start, start + PARTS[rank])
    found = {}
    for number, config in enumerate(CASES):
        for second_ignored in (False, True):
            outputs, target = global_batch(second_ignored=second_ignored)
            outputs = {name: x.detach()[mine].requires_grad_() for name, x in outputs.items()}
            result = criterion(WEIGHTS, borders=("border",), **config)(outputs, target[mine])
            result["loss"].backward()
            found[f"{number} {second_ignored}"] = (
                {name: value.item() for name, value in result.items()},
                {name: x.grad for name, x in outputs.items()},
            )
    if rank == 0:  # alone: without gradients no rank waits for another
        with torch.no_grad():
            criterion({"own": 0.1}, dice_weight=1.0, lovasz_weight=1.0)(*sample())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(rank_main, args=(str(folder), port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("second_ignored", [False, True])
def test_two_ranks_equal_one_on_the_whole_batch(
    two_ranks: list[dict[str, Any]], number: int, second_ignored: bool
) -> None:
    outputs, target = global_batch(second_ignored=second_ignored)
    whole = criterion(WEIGHTS, borders=("border",), **CASES[number])(outputs, target)
    whole["loss"].backward()
    (values, first), (others, second) = (rank[f"{number} {second_ignored}"] for rank in two_ranks)
    assert values == others
    if CASES[number].get("ohem_min_kept") == 40:
        assert int((outputs["main"].grad.abs().sum(1) > 0).sum()) == 40
    for name, value in whole.items():
        assert values[name] == pytest.approx(value.item(), rel=1e-12)
    for name, x in outputs.items():
        averaged = torch.cat([first[name], second[name]]) / 2  # as DistributedDataParallel does
        torch.testing.assert_close(averaged, x.grad, rtol=1e-12, atol=1e-15)

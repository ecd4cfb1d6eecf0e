"""The optimizer's groups, the rate's schedule, and what weight decay spares."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from rayseg import optim
from rayseg.errors import UsageError
from rayseg.schema import parse


class Model(nn.Module):
    """A backbone and a head, with every kind of parameter that weight decay treats."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
        self.gamma = nn.Parameter(torch.zeros(()))


def config(**options: Any) -> optim.Config:
    return parse(optim.Config, options, "optim")


def groups(model: Model, **options: Any) -> list[dict[str, Any]]:
    names = {p: name for name, p in model.named_parameters()}
    made = optim.build(config(**options), model.backbone, model).param_groups
    keys = ("factor", "weight_decay", "momentum")
    return [{"names": [names[p] for p in g["params"]]} | {k: g[k] for k in keys} for g in made]


def test_backbone_and_rest_are_two_groups_decayed_alike() -> None:
    backbone, rest = groups(Model(), head_lr_factor=10.0, weight_decay=1e-4, momentum=0.8)
    assert backbone["names"] == ["backbone.0.weight", "backbone.1.weight", "backbone.1.bias"]
    assert sorted(rest["names"]) == ["gamma", "head.0.bias", "head.0.weight", "head.1.bias", "head.1.weight"]
    assert (backbone["factor"], rest["factor"]) == (1.0, 10.0)
    assert all((g["weight_decay"], g["momentum"]) == (1e-4, 0.8) for g in (backbone, rest))


def test_norms_and_biases_can_be_spared() -> None:
    found = groups(Model(), head_lr_factor=10.0, weight_decay=1e-4, decay_norm_bias=False)
    assert [(sorted(g["names"]), g["factor"], g["weight_decay"]) for g in found] == [
        (["backbone.0.weight"], 1.0, 1e-4),
        (["backbone.1.bias", "backbone.1.weight"], 1.0, 0.0),
        (["head.0.weight"], 10.0, 1e-4),
        (["gamma", "head.0.bias", "head.1.bias", "head.1.weight"], 10.0, 0.0),
    ]


@pytest.mark.parametrize("spare", [False, True])
def test_one_update_is_the_formula(spare: bool) -> None:
    model = Model()
    options = config(lr=0.5, weight_decay=0.1, momentum=0.0, head_lr_factor=10.0, decay_norm_bias=not spare)
    optimizer = optim.build(options, model.backbone, model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
            p.grad = torch.full_like(p, 3.0)
    rate = optim.set_rate(optimizer, options, 25, 100)
    assert rate == pytest.approx(0.5 * 0.75**0.9)
    optimizer.step()
    for name, p in model.named_parameters():
        decayed = not spare or p.ndim > 1
        factor = 1.0 if name.startswith("backbone") else 10.0
        expected = 2.0 - rate * factor * (3.0 + (0.1 * 2.0 if decayed else 0.0))
        torch.testing.assert_close(p, torch.full_like(p, expected))


def test_poly_falls_from_one_to_zero() -> None:
    shares = [optim.poly(step, 10, 0.9) for step in range(11)]
    assert (shares[0], shares[10]) == (1.0, 0.0)
    assert shares == sorted(shares, reverse=True)
    assert [optim.poly(step, 10, 1.0) for step in (3, 7)] == pytest.approx([0.7, 0.3])


def test_sparing_from_no_decay_is_refused() -> None:
    with pytest.raises(UsageError, match="decay_norm_bias = false would be ignored with weight_decay = 0"):
        config(weight_decay=0.0, decay_norm_bias=False)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_cosine_falls_as_half_a_wave_and_constant_stays() -> None:
    cosine = [optim.share(config(schedule="cosine"), step, 8) for step in range(9)]
    assert cosine == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(9)])
    assert (cosine[0], cosine[4], cosine[8]) == pytest.approx((1.0, 0.5, 0.0))
    assert {optim.share(config(schedule="constant"), step, 8) for step in range(8)} == {1.0}


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_warm_up_rises_in_a_line_to_the_schedule(schedule: str) -> None:
    plain, warm = (config(schedule=schedule, **more) for more in ({}, {"warmup_steps": 4, "warmup_factor": 0.2}))
    shares = [optim.share(warm, step, 10) / optim.share(plain, step, 10) for step in range(10)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "cosine", "power": 2.0},
        {"warmup_factor": 0.5},
        {"beta2": 0.99},
        {"name": "sgd", "beta2": 0.99, "warmup_steps": 3},
    ],
)
def test_what_nothing_would_read_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would be ignored with"):
        config(**options)


def test_a_recipes_defaults_may_stand_beside_another_choice() -> None:
    config(name="adamw", schedule="cosine", power=0.9, momentum=0.9)


# --- AdamW ----------------------------------------------------------------------------------------------------------


def test_an_update_of_adamw_is_the_formula() -> None:
    """Decoupled decay, corrected moments: "Decoupled Weight Decay Regularization", Algorithm 2."""
    model = Model()
    options = config(name="adamw", lr=0.1, momentum=0.8, beta2=0.95, weight_decay=0.5, head_lr_factor=2.0)
    optimizer = optim.build(options, model.backbone, model)
    gradients = (3.0, -1.0)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
    for step, gradient in enumerate(gradients):
        for p in model.parameters():
            p.grad = torch.full_like(p, gradient)
        optim.set_rate(optimizer, options, step, 4)
        optimizer.step()
    for name, p in model.named_parameters():
        x, m, v = 2.0, 0.0, 0.0
        for t, g in enumerate(gradients, 1):
            rate = 0.1 * (1 - (t - 1) / 4) ** 0.9 * (1.0 if name.startswith("backbone") else 2.0)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
            x = x - rate * 0.5 * x - rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-8)
        torch.testing.assert_close(p, torch.full_like(p, x))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"name": "adamw"}])
def test_the_state_is_named_and_comes_back(options: dict[str, Any]) -> None:
    models = [Model(), Model()]
    models[1].load_state_dict(models[0].state_dict())
    made = [optim.build(config(**options), model.backbone, model) for model in models]
    for p in models[0].parameters():
        p.grad = torch.randn_like(p)
    made[0].step()
    saved = {name: tensor.clone() for name, tensor in optim.state_tensors(made[0], models[0]).items()}
    tensors = 3 if options.get("name") == "adamw" else optim.slots(config(**options))
    assert len(saved) == tensors * len(list(models[0].parameters()))
    if not options:
        assert saved.keys() == dict(models[0].named_parameters()).keys()  # as in every commit so far
    optim.load_state(saved, made[1], models[1])
    models[1].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models, made, strict=True):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))

"""The optimizer's groups, the rate's schedule, and what weight decay spares."""

from __future__ import annotations

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

"""SGD with momentum and the poly schedule, the papers' common recipe. The rate is a pure function of the step."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from rayseg.schema import Value

Positive = Annotated[float, Field(gt=0)]


class Config(Value):
    """SGD + poly; `head_lr_factor` multiplies the rate of everything outside the backbone (DFN uses 10)."""

    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    power: Positive = 0.9
    head_lr_factor: Positive = 1.0


def poly(step: int, steps: int, power: float) -> float:
    """Give the rate's share left before update `step` (from 0) of `steps`: `(1 - step/steps) ** power`."""
    return (1.0 - step / steps) ** power


def build(config: Config, backbone: nn.Module, model: nn.Module) -> torch.optim.SGD:
    """Make the optimizer: one group for the backbone, one for the rest of `model`, each with its `factor`."""
    inside = {id(p) for p in backbone.parameters()}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        {"params": list(backbone.parameters()), "factor": 1.0},
        {"params": rest, "factor": config.head_lr_factor},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, config: Config, step: int, steps: int) -> float:
    """Set every group's rate for update `step`; give the backbone's rate."""
    rate = config.lr * poly(step, steps, config.power)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate

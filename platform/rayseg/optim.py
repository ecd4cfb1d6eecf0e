"""SGD with momentum and the poly schedule, the papers' common recipe. The rate is a pure function of the step."""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from rayseg.errors import UsageError
from rayseg.schema import Value

Positive = Annotated[float, Field(gt=0)]


class Config(Value):
    """SGD + poly; `head_lr_factor` multiplies the rate of everything outside the backbone (DFN uses 10).

    Without `decay_norm_bias` (as in DFN) weight decay spares norms, biases and other vectors: what has one dimension.
    """

    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    power: Positive = 0.9
    head_lr_factor: Positive = 1.0
    decay_norm_bias: bool = True

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if not self.decay_norm_bias and self.weight_decay == 0:
            what = "decay_norm_bias = false would be ignored with weight_decay = 0"
            raise UsageError(what, "optim.decay_norm_bias", "drop it, or set optim.weight_decay")
        return self


def poly(step: int, steps: int, power: float) -> float:
    """Give the rate's share left before update `step` (from 0) of `steps`: `(1 - step/steps) ** power`."""
    return (1.0 - step / steps) ** power


def build(config: Config, backbone: nn.Module, model: nn.Module) -> torch.optim.SGD:
    """Make the optimizer: a group for the backbone and one for the rest of `model`, each with its `factor`.

    Each is followed by a group of what is not decayed, where the config spares it.
    """
    inside = {id(p) for p in backbone.parameters()}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups: list[dict[str, Any]] = []
    for params, factor in ((list(backbone.parameters()), 1.0), (rest, config.head_lr_factor)):
        decayed = [p for p in params if config.decay_norm_bias or p.ndim > 1]
        groups.append({"params": decayed, "factor": factor})
        if not config.decay_norm_bias:
            groups.append({"params": [p for p in params if p.ndim <= 1], "factor": factor, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, config: Config, step: int, steps: int) -> float:
    """Set every group's rate for update `step`; give the backbone's rate."""
    rate = config.lr * poly(step, steps, config.power)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate

"""Optimizers, their learning rate and their state: SGD with momentum and poly, the papers' recipe, or AdamW.

The rate is a pure function of the step: nothing of a schedule needs keeping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rayseg.errors import UsageError
from rayseg.schema import Value

Positive = Annotated[float, Field(gt=0)]
_POWER, _WARMUP, _BETA2 = 0.9, 0.1, 0.999


class Config(Value):
    """The optimizer and its rate; `head_lr_factor` multiplies that of everything outside the backbone (DFN uses 10).

    Without `decay_norm_bias` (as in DFN) weight decay spares norms, biases and other vectors: what has one dimension.
    `momentum` is AdamW's first beta too, `beta2` its second. The rate before update `step` (from 0) of `steps` is `lr`
    times poly `(1 - step/steps) ** power`, cosine `(1 + cos(pi step/steps)) / 2` or constant 1; in the first
    `warmup_steps` that is also multiplied by what rises in a line from `warmup_factor` to 1. `power`, `beta2` and
    `warmup_factor` may stand at their defaults where nothing reads them, so that a sweep can start from one recipe.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = _BETA2
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: Positive = _POWER
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_factor: Annotated[float, Field(ge=0, lt=1)] = _WARMUP
    head_lr_factor: Positive = 1.0
    decay_norm_bias: bool = True

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if not self.decay_norm_bias and self.weight_decay == 0:
            what = "decay_norm_bias = false would be ignored with weight_decay = 0"
            raise UsageError(what, "optim.decay_norm_bias", "drop it, or set optim.weight_decay")
        read = (
            ("power", _POWER, self.schedule == "poly", f"schedule = {self.schedule}", "optim.schedule=poly"),
            ("warmup_factor", _WARMUP, self.warmup_steps > 0, "warmup_steps = 0", "optim.warmup_steps"),
            ("beta2", _BETA2, self.name == "adamw", f"name = {self.name}", "optim.name=adamw"),
        )
        for field, default, used, beside, setting in read:
            if not used and getattr(self, field) != default:
                what = f"{field} = {getattr(self, field)} would be ignored with {beside}"
                raise UsageError(what, f"optim.{field}", f"drop it, or set {setting}")
        return self


# --- the rate -------------------------------------------------------------------------------------------------------


def poly(step: int, steps: int, power: float) -> float:
    """Give the rate's share left before update `step` (from 0) of `steps`: `(1 - step/steps) ** power`."""
    return (1.0 - step / steps) ** power


def share(config: Config, step: int, steps: int) -> float:
    """Give the rate's share of `lr` for update `step` (from 0) of `steps`; see `Config`."""
    if config.schedule == "poly":
        left = poly(step, steps, config.power)
    else:
        left = 1.0 if config.schedule == "constant" else (1 + math.cos(math.pi * step / steps)) / 2
    if step < config.warmup_steps:
        left *= config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup_steps
    return left


def set_rate(optimizer: torch.optim.Optimizer, config: Config, step: int, steps: int) -> float:
    """Set every group's rate for update `step`; give the backbone's rate."""
    rate = config.lr * share(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


# --- the optimizer and its state ------------------------------------------------------------------------------------


def build(config: Config, backbone: nn.Module, model: nn.Module) -> torch.optim.Optimizer:
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
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=(config.momentum, config.beta2), **common)
    return torch.optim.SGD(groups, momentum=config.momentum, **common)


_MOMENTUM = "momentum_buffer"
_OF_SGD, _OF_ADAMW = {_MOMENTUM}, {"step", "exp_avg", "exp_avg_sq"}
_SLOT = "::"
"""Between a parameter's name and what of its state a tensor is; SGD's momentum has the parameter's name alone."""


def slots(config: Config) -> int:
    """Count the tensors of a parameter's size that the optimizer keeps for each."""
    return 2 if config.name == "adamw" else int(config.momentum > 0)


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Name the optimizer's state after the parameters it belongs to; `load_state` is the inverse."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[name if slot == _MOMENTUM else f"{name}{_SLOT}{slot}"] = value
    return found


def load_state(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Give each parameter the state it had; what is another optimizer's or of no parameter here is left out."""
    own = _OF_ADAMW if isinstance(optimizer, torch.optim.AdamW) else _OF_SGD
    parameters = dict(model.named_parameters())
    for key, saved in tensors.items():
        name, _, slot = key.partition(_SLOT)
        parameter, slot = parameters.get(name), slot or _MOMENTUM
        if parameter is None or slot not in own:
            continue
        if slot != "step":  # in the parameter's memory format
            saved = torch.empty_like(parameter).copy_(saved)
        optimizer.state[parameter][slot] = saved

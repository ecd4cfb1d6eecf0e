"""Where a run starts: the weights of a trained one before step 0, and what is held as it was.

Papers train in stages: DFN and DF-DAM on VOC's own annotations after the augmented ones, GALD on CamVid after
Cityscapes, or on coarse labels with "fixed" batch norm and then on fine ones again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayseg import segmenter
from rayseg.backbone import Backbone
from rayseg.errors import CheckpointError, UsageError
from rayseg.segmenter import Segmenter
from rayseg.train import commit

SHOWN = 6
"""How many names of fresh layers a line says."""


def load_weights(model: Segmenter, source: str, show: Callable[[str], None]) -> None:
    """Give the model the weights of a run's best commit, or of one commit, and say so in a line.

    They are those that the commit was evaluated with: the moving average where the run kept one.

    Every name and shape must fit. Only where the number of classes is another one, the tensors whose shape depends on
    it keep their fresh values, and the line names them.

    Raises:
        CheckpointError: neither a run nor a commit, or of another model; the first three names and the count are said.
    """
    from rayseg.train import review  # which imports the evaluation, and that a step, and that this file

    path = Path(source)
    if not path.is_dir():
        raise CheckpointError("no such folder", path, "set start_from to a run's directory, or to one of its commits")
    found = commit.read(path) if (path / "MANIFEST.json").exists() else review.best_commit(path)
    saved, wanted = commit.best_weights(found), model.state_dict()
    missed = saved.keys() ^ wanted.keys()
    reshaped = {name for name in saved.keys() & wanted.keys() if saved[name].shape != wanted[name].shape}
    fresh = class_dependent(model.config) if reshaped else set()
    if wrong := sorted(missed | (reshaped - fresh)):
        what = f"{len(wrong)} weights do not fit the model: {', '.join(wrong[:3])}"
        raise CheckpointError(what, found.path, "start from a run with the same backbone, head and auxiliary outputs")
    model.load_state_dict({name: wanted[name] if name in fresh else saved[name] for name in wanted})
    show(f"starting from step {found.step}, {found.path}{_named(sorted(fresh), model.config.num_classes)}")


def class_dependent(config: segmenter.Config) -> set[str]:
    """Name the tensors whose shape depends on the number of classes: those that differ in a model with one more."""
    more = config.model_copy(update={"num_classes": config.num_classes + 1})
    one, other = (segmenter.skeleton(c).state_dict() for c in (config, more))
    return {name for name in one.keys() | other.keys() if one[name].shape != other[name].shape}


def _named(fresh: list[str], num_classes: int) -> str:
    if not fresh:
        return ""
    more = f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else ""
    return f"; fresh for {num_classes} classes: {', '.join(fresh[:SHOWN])}{more}"


def freeze_norm(model: nn.Module) -> None:
    """Keep every batch norm as it is: its running statistics are used and stay, its weights are not trained.

    Raises:
        UsageError: the model has none.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        what = "the model has no batch norm to freeze"
        raise UsageError(what, "train.freeze_norm", "drop it, or choose a model with batch norm")
    for layer in layers:
        layer.eval()
        for parameter in layer.parameters():
            parameter.requires_grad_(False)


def freeze_backbone(model: Segmenter, wanted: Literal["none", "all"] | int) -> None:
    """Keep the backbone as it is, or what its first `wanted` feature maps depend on, batch norm's statistics too.

    On a ResNet 1 is the stem and layer1, as in other code's "frozen stages".

    Raises:
        UsageError: the backbone has not so many feature maps.
    """
    if wanted == "none":
        return
    backbone = model.backbone
    frozen = {name for name, _ in backbone.named_parameters()}
    if wanted != "all":
        if wanted > (maps := len(backbone.spec.channels)):
            what = f"{backbone.name} has {maps} feature maps"
            raise UsageError(what, f"train.freeze_backbone = {wanted}", f'set it to 1..{maps}, or to "all"')
        frozen = _depended_on(backbone, wanted)
    for name, parameter in backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for name, module in backbone.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.weight" in frozen:
            module.eval()


def _depended_on(backbone: Backbone, maps: int) -> set[str]:
    """Name the parameters that the first `maps` feature maps are computed from; nothing is computed."""
    meta = copy.deepcopy(backbone).to("meta").train().requires_grad_()
    side = 9 * max(meta.spec.strides)
    found = segmenter.leaves(each.grad_fn for each in meta(torch.empty(2, 3, side, side, device="meta"))[:maps])
    return {name for name, parameter in meta.named_parameters() if id(parameter) in found}

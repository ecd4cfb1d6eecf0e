"""The model: a backbone, a head, the auxiliary head on the last-but-one stage; its cost and its fingerprint."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rayseg import backbone as backbones
from rayseg import heads
from rayseg.errors import UsageError
from rayseg.heads.fcn import Fcn
from rayseg.schema import Value, parse, to_dict


def _head(value: Any) -> Any:
    return heads.from_dict(value) if isinstance(value, Mapping) else value


AnyHead = SerializeAsAny[Annotated[heads.HeadConfig, BeforeValidator(_head)]]
"""A field that holds any head's config; `name` says whose."""


class Config(Value):
    """What is built. `auxiliary` adds an FCN head on the last-but-one stage where the paper trains with one."""

    backbone: backbones.Config = backbones.Config()
    head: AnyHead
    num_classes: Annotated[int, Field(ge=2, le=65535)]
    auxiliary: bool = True


@runtime_checkable
class OwnAuxiliary(Protocol):
    """A head whose paper has an auxiliary head of another form than `Fcn`."""

    def stage_auxiliary_head(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build it: (B, in_channels, h, w) to logits (B, num_classes, h, w)."""


class Segmenter(nn.Module):
    """Images (B,3,H,W) float to logits (B,num_classes,H,W) by name: `"main"`, the head's own, in training `"aux"`.

    Those of `border_outputs` have one channel. Logits are float32 (float64 in a float64 model), whatever autocast
    computed in.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbones.Backbone(config.backbone)
        self.head = heads.build(config.head, self.backbone.spec, config.num_classes)
        self.auxiliary: nn.Module | None = None
        if config.auxiliary and self.head.stage_auxiliary:
            self.auxiliary = _auxiliary(self.head, config, self.backbone.spec.channels[-2])
            self.auxiliary.apply(initialise)
        self.head.apply(initialise)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute every output's logits at the images' size.

        Raises:
            UsageError: backbone or head do not take images of this size, or batch norm not so few values in training.
        """
        size = (int(images.shape[-2]), int(images.shape[-1]))
        try:
            outputs = self._outputs(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            what = f"batch norm gets one value per channel: {len(images)} image of {size[0]}x{size[1]} px a worker"
            fix = "choose a larger augment.crop_px, or a larger train.batch"
            raise UsageError(what, f"backbone.name = {self.backbone.name}", fix) from None
        return {name: _resize(logits, size) for name, logits in outputs.items()}

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        outputs = self.head(features)
        if self.training and self.auxiliary is not None:
            return {**outputs, "aux": self.auxiliary(features[-2])}
        return dict(outputs)

    def loss_weights(self) -> dict[str, float]:
        """Weight of each auxiliary output of the head's own; the weight of `"aux"` is the loss config's."""
        return self.head.loss_weights()

    @property
    def border_outputs(self) -> tuple[str, ...]:
        """The outputs (B,1,H,W) that learn where classes meet, of those that this head makes."""
        return tuple(name for name in self.head.border_outputs if name in self.loss_weights())


def _auxiliary(head: heads.SegmentationHead, config: Config, in_channels: int) -> nn.Module:
    if isinstance(head, OwnAuxiliary):
        return head.stage_auxiliary_head(in_channels, config.num_classes)
    return Fcn(in_channels, max(in_channels // 4, 1), config.num_classes, norm=config.head.norm)


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    # align_corners=False is right at any size; True would need images of 8k + 1 pixels.
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.interpolate(exact, size=size, mode="bilinear", align_corners=False)


def initialise(module: nn.Module) -> None:
    """Initialise a new layer: He's normal for convolutions, zero biases.

    A module with an `initialise` method of its own has the last word on its convolutions.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(own := getattr(module, "initialise", None)):
        own()


# --- building -------------------------------------------------------------------------------------------------------


def build(config: Config) -> Segmenter:
    """Build the model that `config` describes, initialised from torch's global generator.

    Parameters that no output depends on (`unused`) are not trained.

    Raises:
        UsageError: the backbone cannot be built so.
        CheckpointError: `backbone.weights` cannot be loaded.
    """
    model = Segmenter(config)
    for name in unused(model):
        model.get_parameter(name).requires_grad_(False)
    return model


def create(
    head: str, *, backbone: str, num_classes: int, output_stride: int | None = None, **head_options: Any
) -> Segmenter:
    """Build a model from names: `create("gald", backbone="resnet18", num_classes=19, kernel_size=5)`.

    The module maps images (B,3,H,W) float to a dict of logits at the images' size, `"main"` first. `output_stride`
    is that of the backbone's deepest feature map: 8 (the default), 16 or 32; many backbones have 32 only.

    Raises:
        UsageError: no such head, backbone or option, or a value out of range.
    """
    on = {"name": backbone} | ({} if output_stride is None else {"output_stride": output_stride})
    mapping = {"backbone": on, "head": {"name": head, **head_options}, "num_classes": num_classes}
    return build(parse(Config, mapping, "create"))


def skeleton(config: Config) -> Segmenter:
    """Build the model without memory and without weights (on the meta device), to look at only."""
    plain = config.backbone.model_copy(update={"pretrained": False, "weights": None})
    with torch.device("meta"):
        return Segmenter(config.model_copy(update={"backbone": plain}))


def has_stage_auxiliary(head: heads.HeadConfig) -> bool:
    """Whether this head is trained with an auxiliary head on the last-but-one stage, whose weight then matters."""
    return bool(importlib.import_module(type(head).__module__).Head.stage_auxiliary)


def fingerprint(segmenter: Segmenter) -> str:
    """Hash structure, options shown in the modules' repr, parameter names and shapes to 12 hex digits.

    Two configs that build the same model give the same; weights and device do not matter.
    """
    shapes = [f"{name} {tuple(t.shape)}" for name, t in segmenter.state_dict().items()]
    return hashlib.sha256("\n".join([repr(segmenter), *shapes]).encode()).hexdigest()[:12]


# --- what trains ----------------------------------------------------------------------------------------------------


_UNUSED: dict[str, frozenset[str]] = {}  # by config: tests and sweeps build the same model many times
_SIDES = (9, 33)
"""Sides of the deepest feature map that is looked with: a head may refuse a smaller one."""


def unused(segmenter: Segmenter) -> frozenset[str]:
    """Name the parameters that no output depends on in training; nothing is computed.

    HRNet's last fusions make a map per stage, and most heads leave some of these maps out. DistributedDataParallel
    would wait for such a parameter's gradient and refuse the second step. Empty where no size of `_SIDES` is taken.
    """
    key = json.dumps(to_dict(segmenter.config), sort_keys=True)
    if key not in _UNUSED:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            _UNUSED[key] = _without_gradient(copy.deepcopy(segmenter).to("meta").train())
    return _UNUSED[key]


def _without_gradient(meta: Segmenter) -> frozenset[str]:
    for side in _SIDES:
        size = side * meta.backbone.spec.strides[-1]
        try:
            outputs = meta(torch.empty(2, 3, size, size, device="meta"))
        except UsageError:
            continue
        reached = leaves(logits.grad_fn for logits in outputs.values())
        if all(id(p) in reached for p in meta.parameters()):
            return frozenset()
        # A function that recomputes its inside hides it from the graph's walk, but not from a backward pass.
        torch.stack([logits.sum() for logits in outputs.values()]).sum().backward()
        return frozenset(name for name, p in meta.named_parameters() if p.grad is None)
    return frozenset()


def leaves(functions: Iterable[Any]) -> set[int]:
    """Walk the graph of a forward pass back from these `grad_fn` to the parameters, and give their ids."""
    waiting, seen, leaves = list(functions), set(), set()
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            leaves.add(id(function.variable))
        waiting += [following for following, _ in function.next_functions]
    return leaves


# --- cost -----------------------------------------------------------------------------------------------------------


class ModelCost(NamedTuple):
    """Parameters, and multiply-adds of convolutions and matrix products for one image, as they are computed."""

    head: str
    backbone: str
    params: int
    backbone_params: int
    head_params: int
    aux_params: int
    macs: int
    strides: tuple[int, ...]


def describe(segmenter: Segmenter, size: Sequence[int] = (3, 512, 512), *, training: bool = False) -> ModelCost:
    """Count parameters, and multiply-adds for one image of `size` (channels, height, width); nothing is computed.

    MACs are of the inference graph, or with `training` of the forward pass with the auxiliary outputs.
    """
    meta = copy.deepcopy(segmenter).to("meta").train(training)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(torch.empty(1, *size, device="meta"))
    return ModelCost(
        head=segmenter.config.head.name,
        backbone=segmenter.config.backbone.name,
        params=_num_params(segmenter),
        backbone_params=_num_params(segmenter.backbone),
        head_params=_num_params(segmenter.head),
        aux_params=_num_params(segmenter.auxiliary),
        macs=counter.get_total_flops() // 2,
        strides=segmenter.backbone.spec.strides,
    )


def _num_params(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def costs(
    head_names: Sequence[str], backbone: str, num_classes: int, *, output_stride: int, size: Sequence[int]
) -> list[ModelCost]:
    """Describe each head (all of them when none is named), with its defaults, on a backbone."""
    found = []
    for name in head_names or heads.names():
        mapping = {"backbone": {"name": backbone, "output_stride": output_stride}, "head": {"name": name}}
        config = parse(Config, {**mapping, "num_classes": num_classes}, f"--head {name}")
        found.append(describe(skeleton(config), size))
    return found

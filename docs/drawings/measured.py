"""What a head's modules make of an image: shapes by name and counts, on the meta device. Nothing is computed."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rayseg import backbone as backbones
from rayseg import config as configs
from rayseg import heads, recipe, segmenter
from rayseg.heads.fcn import Fcn

CLASSES = 19
Shape = tuple[int, ...]


class Setting(NamedTuple):
    """What is built, and the image (height, width) it is given."""

    backbone: backbones.Config
    head: heads.HeadConfig
    size_px: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size_px
        name, stride = self.backbone.name, self.backbone.output_stride
        return f"{name} at output stride {stride}, an image of 3×{height}×{width}, {CLASSES} classes"

    def model(self) -> segmenter.Config:
        """Give the config of the whole model."""
        return segmenter.Config(backbone=self.backbone, head=self.head, num_classes=CLASSES)


def of_recipe(name: str) -> Setting:
    """Take backbone, head and crop from a recipe."""
    run = configs.from_dict(configs.merged(recipe.load(name).run, {"data.shards": name, "backbone.pretrained": False}))
    return Setting(run.backbone, run.head, run.augment.crop_px)


def defaults(head: str, backbone: str, *, size_px: int = 769, output_stride: int = 8) -> Setting:
    """Take a head with its defaults."""
    net = backbones.Config.model_validate({"name": backbone, "output_stride": output_stride})
    return Setting(net, heads.from_dict({"name": head}), (size_px, size_px))


def built_backbone(config: backbones.Config) -> backbones.Backbone:
    """Build the backbone without weights, once for all dilations, which change neither shapes nor counts."""
    return _built(config.model_copy(update={"dilation_style": "timm", "multi_grid": None}))


@cache
def _built(config: backbones.Config) -> backbones.Backbone:
    with torch.device("meta"):
        return backbones.Backbone(config)


def feature_maps(spec: backbones.FeatureSpec, size_px: tuple[int, int], *, batch: int) -> list[Tensor]:
    """Make maps as the backbone would, without running it."""
    sizes = [[-(-side // stride) for side in size_px] for stride in spec.strides]
    return [torch.empty(batch, c, *size, device="meta") for c, size in zip(spec.channels, sizes, strict=True)]


class Measured:
    """A head on the maps of one image: its modules, and the shape, without the batch, of what goes in and out of each.

    Shapes are called `"layers.reduce"` (a module's output, of its first call), `"layers.fuse<"` (its first input),
    `"pam<1"` (its second), `"x4"` (the backbone's fourth map) and `"=main"` (an output of the head).
    """

    def __init__(self, setting: Setting) -> None:
        spec = built_backbone(setting.backbone).spec
        with torch.device("meta"):
            self.head = heads.build(setting.head, spec, CLASSES)
        self.modules = dict(self.head.named_modules())
        self.features = feature_maps(spec, setting.size_px, batch=2)
        self.shapes = {f"x{i}": tuple(x.shape[1:]) for i, x in enumerate(self.features, start=1)}
        for name, module in self.modules.items():
            module.register_forward_hook(self._keep(name))
        with torch.no_grad():
            outputs = self.head.train()(self.features)
        self.shapes |= {f"={name}": tuple(x.shape[1:]) for name, x in outputs.items()}

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for i, x in enumerate(inputs):
                if isinstance(x, Tensor):
                    self.shapes.setdefault(f"{name}<{i or ''}", tuple(x.shape[1:]))
            if isinstance(output, Tensor):
                self.shapes.setdefault(name, tuple(output.shape[1:]))

        return hook

    def layers(self, name: str) -> list[str]:
        """Write the convolutions and linear layers of a module: kernel, width, stride, dilation, groups."""
        return [_written(m) for m in self.modules[name].modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def _written(layer: nn.Conv2d | nn.Linear) -> str:
    if isinstance(layer, nn.Linear):
        return f"linear, {layer.out_features}"
    text = f"{layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.out_channels}"
    if layer.stride[0] > 1:
        text += f" /{layer.stride[0]}"
    if layer.dilation[0] > 1:
        text += f" r={layer.dilation[0]}"
    if layer.groups > 1:
        text += " dw" if layer.groups == layer.in_channels else f" g={layer.groups}"
    return text


# --- counts ---------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """What `segmenter.describe` counts: parameters, and multiply-adds of one image in evaluation."""

    params: int
    head_params: int
    aux_params: int
    macs: int


@cache
def counts(setting: Setting) -> Counts:
    """Count a model; a backbone that several heads have is built and counted once."""
    net = built_backbone(setting.backbone)
    with torch.device("meta"):
        head = heads.build(setting.head, net.spec, CLASSES)
        aux = _auxiliary(head, setting, net.spec.channels[-2])
    maps = feature_maps(net.spec, setting.size_px, batch=1)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (net, head, aux)]
    macs = _backbone_macs(net, setting.size_px) + _macs(head, maps)
    return Counts(sum(sizes), *sizes[1:], macs)


def _auxiliary(head: heads.SegmentationHead, setting: Setting, in_channels: int) -> nn.Module:
    if not head.stage_auxiliary:
        return nn.Identity()
    if isinstance(head, segmenter.OwnAuxiliary):
        return head.stage_auxiliary_head(in_channels, CLASSES)
    return Fcn(in_channels, in_channels // 4, CLASSES, norm=setting.head.norm)


@cache
def _backbone_macs(net: backbones.Backbone, size_px: tuple[int, int]) -> int:
    return _macs(net, torch.empty(1, 3, *size_px, device="meta"))


def _macs(module: nn.Module, x: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(x)
    return counter.get_total_flops() // 2

"""DFN: "Learning a Discriminative Feature Network for Semantic Segmentation", https://arxiv.org/abs/1804.09337.

Figure 2: the Smooth Network goes down from the deepest map, whose global average guides it, and lets each deeper level
weigh the channels of the next one (CAB, eq. 3); the Border Network goes up from the shallowest map and learns where
classes meet, in training only: it shapes the backbone's features and is not part of the prediction. Both refine by
residual blocks (RRB) and are supervised at every level. Loss: eq. 7, the sum of the levels' cross-entropies and
lambda = 0.1 times the sum of the borders' focal losses. Table 2's rows are the switches.

512 channels are the paper's; 21 for borders, nine per class in the heads' refinement, and where RRBs stand are the
author's code (TorchSeg). With resnet101s and 19 classes that code has 90 217 888 parameters. 8 421 of them (an RRB
after the first border level) take part in nothing and are not built here: 90 209 467, of which inference uses
88 212 444, as there.

Deviations. Maps are resized to the size of the map they meet, not by a factor of 2, so that any image size and any
output stride will do; and with align_corners=False, which is right at any size. Without CAB levels are added up, as in
FCN; without global pooling the deepest has no guide. Without RRB, Table 2's first row, it is a 1x1 classifier on the
deepest map. A batch of one image has no batch statistics for the pooled image; see `PooledBatchNorm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, norm_layer, pooled_conv_norm_relu, resized

WIDTH_PER_OUTPUT = 9
"""Channels per output at which each level's logits are refined."""


class Config(HeadConfig):
    """Which parts are built. Options of what is not built are None, and refused when given.

    With `rrb`: `global_pooling`, `cab` and `deep_supervision` (all true), `channels` (512) of the Smooth Network.
    With `border`: `border_channels` (21).
    """

    name: Literal["dfn"] = "dfn"
    rrb: bool = True
    global_pooling: bool | None = None
    cab: bool | None = None
    deep_supervision: bool | None = None
    channels: Annotated[int, Field(ge=1)] | None = None
    border: bool = True
    border_channels: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {field: value for field, value in given.items() if value is not None}
        for switch, options in _OPTIONS.items():
            if given.get(switch, True):
                given = options | given
            elif ignored := sorted(options.keys() & given.keys()):
                what = f"{ignored[0]} = {given[ignored[0]]} would be ignored with {switch} = false"
                raise UsageError(what, f"head.{ignored[0]}", f"drop it, or set head.{switch}=true")
        return given


_OPTIONS: dict[str, dict[str, Any]] = {
    "rrb": {"global_pooling": True, "cab": True, "deep_supervision": True, "channels": 512},
    "border": {"border_channels": 21},
}


class RefinementResidualBlock(nn.Module):
    """RRB, Figure 2(b): a 1x1 to the width, then `x + 3x3(relu(norm(3x3(x))))`, at last a ReLU unless logits follow."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.unify = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.refine = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        x = self.unify(x_BCHW)
        refined = x + self.refine(x)
        return functional.relu(refined) if self.relu else refined

    def extra_repr(self) -> str:
        return f"relu={self.relu}"


class ChannelAttention(nn.Module):
    """CAB, Figure 2(c): both levels' averages say how much of each of the lower level's channels joins the higher."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, low_BCHW: Tensor, high_BCHW: Tensor) -> Tensor:
        """Give `a * low + high`, of (B, C, h, w) each."""
        pooled = torch.cat([x.mean((2, 3), keepdim=True) for x in (low_BCHW, high_BCHW)], 1)
        return self.weigh(pooled) * low_BCHW + high_BCHW


class Sum(nn.Module):
    """What stands in CAB's place without it."""

    def forward(self, low_BCHW: Tensor, high_BCHW: Tensor) -> Tensor:
        """Add the levels."""
        return low_BCHW + high_BCHW


class SmoothNetwork(nn.Module):
    """From deep to shallow: refine a level, let the deeper ones guide it, refine again."""

    def __init__(self, config: Config, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        norm, levels = config.norm, len(in_channels)
        self.pool = None
        if config.global_pooling:
            self.pool = pooled_conv_norm_relu(in_channels[-1], width, norm=norm)
        self.before = nn.ModuleList(RefinementResidualBlock(c, width, norm=norm) for c in in_channels)
        guided = levels if config.global_pooling else levels - 1
        self.fuse = nn.ModuleList(ChannelAttention(width) if config.cab else Sum() for _ in range(guided))
        self.after = nn.ModuleList(RefinementResidualBlock(width, width, norm=norm) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Give each level's refined map (B, width, h_i, w_i), shallow to deep."""
        guide = None if self.pool is None else self.pool(features[-1])
        refined: list[Tensor] = []
        for level in reversed(range(len(features))):
            x = self.before[level](features[level])
            if guide is not None:
                x = self.fuse[level](x, resized(guide, x))
            guide = self.after[level](x)
            refined.insert(0, guide)
        return refined


class BorderNetwork(nn.Module):
    """From shallow to deep, at the shallowest map's size: add a refined level, refine the sum."""

    def __init__(self, in_channels: Sequence[int], width: int, *, norm: Norm) -> None:
        super().__init__()
        self.before = nn.ModuleList(RefinementResidualBlock(c, width, norm=norm) for c in in_channels)
        self.after = nn.ModuleList(RefinementResidualBlock(width, width, norm=norm) for _ in in_channels[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Give the border map (B, width, h_1, w_1) after each level."""
        maps = [self.before[0](features[0])]
        for before, after, x in zip(self.before[1:], self.after, features[1:], strict=True):
            maps.append(after(maps[-1] + resized(before(x), maps[0])))
        return maps


class Head(SegmentationHead):
    """Both networks; levels are numbered as the backbone's maps, 1 the shallowest."""

    stage_auxiliary = False
    border_outputs: ClassVar[tuple[str, ...]] = ("border_1", "border_2", "border_3", "border_4")

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        norm, levels = config.norm, range(1, len(spec.channels) + 1)
        self.smooth: SmoothNetwork | None = None
        self.classify = nn.ModuleDict()
        if config.channels is None:  # without RRB
            self.classify["main"] = nn.Conv2d(spec.channels[-1], num_classes, 1)
        else:
            self.smooth = SmoothNetwork(config, spec.channels, config.channels)
            for level in levels if config.deep_supervision else levels[:1]:
                self.classify[_smooth(level)] = classifier(config.channels, num_classes, norm=norm)
        self.border: BorderNetwork | None = None
        self.detect = nn.ModuleDict()
        if config.border_channels is not None:
            self.border = BorderNetwork(spec.channels, config.border_channels, norm=norm)
            self.detect.update({_border(level): classifier(config.border_channels, 1, norm=norm) for level in levels})

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the shallowest features' stride (without RRB, the deepest's).

        In training also `"smooth_2"` and deeper at their level's stride, and all borders at the shallowest's.
        """
        maps = features[-1:] if self.smooth is None else self.smooth(features)
        if not self.training:
            return {"main": self.classify["main"](maps[0])}
        outputs = {name: layer(x) for (name, layer), x in zip(self.classify.items(), maps, strict=False)}
        return outputs | self.borders(features)

    def borders(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give the Border Network's logits (B, 1, h_1, w_1) after each level, by name; none where it is not built."""
        if self.border is None:
            return {}
        maps = zip(self.detect.items(), self.border(features), strict=True)
        return {name: layer(x) for (name, layer), x in maps}

    def loss_weights(self) -> dict[str, float]:
        """Give the paper's: 1 for each deeper level, lambda = 0.1 for each border output."""
        deeper = [name for name in self.classify if name != "main"]
        return dict.fromkeys(deeper, 1.0) | dict.fromkeys(self.detect, 0.1)


def classifier(in_channels: int, num_outputs: int, *, norm: Norm) -> nn.Sequential:
    """Refine at nine channels per output, without a last ReLU, and classify by a 1x1."""
    inner = WIDTH_PER_OUTPUT * num_outputs
    return nn.Sequential(
        RefinementResidualBlock(in_channels, inner, norm=norm, relu=False), nn.Conv2d(inner, num_outputs, 1)
    )


def _smooth(level: int) -> str:
    return "main" if level == 1 else f"smooth_{level}"


def _border(level: int) -> str:
    return f"border_{level}"

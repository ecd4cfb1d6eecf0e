"""Non-local: "Non-local Neural Networks", https://arxiv.org/abs/1711.07971, eq. 1 with the dot product of eq. 4.

The form that segmentation papers compare with (DANet's position attention in CCNet's layout): keys of an eighth of the
channels, values of all, biases, no scaling, added to the input by a weight that starts at 0. Layout: 3x3, attention,
3x3, concatenated with the input, 3x3, dropout, classifier; 66 558 036 parameters on resnet101s with 19 classes.

With `downsample` 4 it attends on a map of a quarter of the height and width, resized back, as NL-D of DGCWNet does
(https://arxiv.org/abs/2004.12679, Table 2; with its 128 channels, of the keys too, that row is `dgcw` with `context`
"nl_reduced"). How to resize is not written there; it is bilinear both ways, without aligned corners, which suits any
size, and the block's sum with its input stays at the small size, as where that paper puts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import ContextFuse
from rayseg.ops.attention import attention


class Config(HeadConfig):
    """`channels` is the width at which pixels attend; a quarter of the backbone's channels when absent.

    `downsample` divides the height and width of the map on which they do.
    """

    name: Literal["nonlocal_net"] = "nonlocal_net"
    channels: Annotated[int, Field(ge=8)] | None = None
    downsample: Annotated[int, Field(ge=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class NonLocal(nn.Module):
    """The block alone: each pixel gets a mean of all pixels' values, weighted by its affinity to them."""

    def __init__(self, channels: int, *, key_channels: int | None = None) -> None:
        """Attend at `channels`, by queries and keys of `key_channels`: an eighth of them when absent."""
        super().__init__()
        self.out_channels = channels
        key_channels = channels // 8 if key_channels is None else key_channels
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = (layer(x_BCHW).flatten(2) for layer in (self.query, self.key, self.value))
        return self.gamma * attention(q, k, v).view_as(x_BCHW) + x_BCHW


class Reduced(nn.Module):
    """Run a module on a map of 1 / `factor` of the height and width, rounded up; bilinear there and back."""

    def __init__(self, module: nn.Module, factor: int) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        size = x_BCHW.shape[-2:]
        small = (-(-size[0] // self.factor), -(-size[1] // self.factor))
        y = self.module(functional.interpolate(x_BCHW, size=small, mode="bilinear"))
        return functional.interpolate(y, size=size, mode="bilinear")

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class Head(SegmentationHead):
    """`NonLocal` in CCNet's layout."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 8)
        block = NonLocal(width) if config.downsample == 1 else Reduced(NonLocal(width), config.downsample)
        self.layers = ContextFuse(spec.channels[-1], width, block, norm=config.norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.classify(self.dropout(self.layers(features[-1])))}

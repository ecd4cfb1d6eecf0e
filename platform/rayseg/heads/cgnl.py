"""CGNL: "Compact Generalized Non-local Network", https://arxiv.org/abs/1810.13125, eq. 6 with the dot product, grouped.

Layout and sizes are those of GALD v1 without its LD: 3x3 to 512, half size, CGNL in 8 groups, back, 3x3, concatenated
with the input, 3x3, classifier.

The affinity of all (channel, pixel) pairs of a group is rank one, theta phi^T, so (theta phi^T) g = theta (phi . g):
one number a = phi . g per image and group, in linear time.

Finding: the groups of the last convolution and of its GroupNorm are those of the affinity, so GroupNorm divides |a| out
again and the block is x + GN(W sign(a) theta). Phi and g get next to no gradient. It is kept as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import ContextFuse, Norm, pooled_norm_layer

GROUPS = 8


class Config(HeadConfig):
    """`channels` is the width at which the context is computed; a quarter of the backbone's channels when absent."""

    name: Literal["cgnl"] = "cgnl"
    channels: Annotated[int, Field(ge=16, multiple_of=16)] | None = None


class Cgnl(nn.Module):
    """The block alone, on `channels` (a multiple of 16) maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.theta = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.expand = nn.Conv2d(channels // 2, channels, 1, groups=GROUPS, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = generalised(self.theta(x_BCHW), self.phi(x_BCHW), self.g(x_BCHW), groups=GROUPS)
        return x_BCHW + self.norm(self.expand(y))


def generalised(theta: Tensor, phi: Tensor, g: Tensor, *, groups: int) -> Tensor:
    """Let every (channel, pixel) attend to all others of its group of channels: `(theta phi^T) g`, as `a theta`.

    All are (B, C, H, W). The naive twin (benchmarks/naive/cgnl.py) multiplies (C / groups * H * W) squared pairs.
    """
    theta, phi, g = (x.unflatten(1, (groups, -1)) for x in (theta, phi, g))
    # A sum over thousands of products: at least float32 also under autocast.
    exact = torch.promote_types(phi.dtype, torch.float32)
    a_BG111 = (phi.to(exact) * g.to(exact)).sum((2, 3, 4), keepdim=True)
    return (a_BG111 * theta).flatten(1, 2)


class HalfSize(nn.Module):
    """Run a module at half the resolution: depthwise 3x3 of stride 2, the module, bilinear back to size.

    As in GALD's code: no padding, a bias before the norm, align_corners=True.
    """

    SMALLEST_PX = 3

    def __init__(self, channels: int, module: nn.Module, *, norm: Norm) -> None:
        super().__init__()
        self.down = strided_depthwise(channels, norm)
        self.module = module

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; H, W at least `SMALLEST_PX`."""
        y = self.module(self.down(x_BCHW))
        return functional.interpolate(y, size=x_BCHW.shape[-2:], mode="bilinear", align_corners=True)


def strided_depthwise(channels: int, norm: Norm) -> nn.Sequential:
    """Halve a map: depthwise 3x3 of stride 2 without padding and with bias, norm, ReLU."""
    convolution = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
    return nn.Sequential(convolution, pooled_norm_layer(norm, channels), nn.ReLU(inplace=True))


def require_px(x_BCHW: Tensor, smallest: int, *, stride: int, where: str) -> None:
    """Refuse feature maps that strided convolutions without padding would use up.

    Raises:
        UsageError: the map is less than `smallest` pixels high or wide.
    """
    height, width = x_BCHW.shape[-2:]
    if min(height, width) < smallest:
        fix = f"use images and crops of at least {(smallest - 1) * stride + 1} px a side at output stride {stride}"
        raise UsageError(
            f"a feature map of {height}x{width} is too small, {smallest}x{smallest} is the least", where, fix
        )


class Head(SegmentationHead):
    """`Cgnl` at half resolution in GALD v1's layout."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 64 * 16, 16)
        self.stride = spec.strides[-1]
        context = HalfSize(width, Cgnl(width), norm=config.norm)
        self.layers = ContextFuse(spec.channels[-1], width, context, norm=config.norm)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride.

        Raises:
            UsageError: the image is too small.
        """
        require_px(features[-1], HalfSize.SMALLEST_PX, stride=self.stride, where="head.name = cgnl")
        return {"main": self.classify(self.layers(features[-1]))}

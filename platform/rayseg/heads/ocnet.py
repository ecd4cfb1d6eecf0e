"""OCNet: "Object Context Network for Scene Parsing", https://arxiv.org/abs/1809.00916v2, in its form Base-OC.

3x3 to 512, then object context: every pixel gets a mean of all pixels' values, weighted by a scaled softmax over their
keys; queries *are* keys, from one 1x1 with norm and ReLU, to 256 channels like the values. A 1x1 that starts at 0 leads
back to 512; the result is concatenated with the 3x3's, 1x1, dropout 0.05, classifier. The auxiliary head is half as
wide as its stage. The widths are for 2048 channels: here a quarter of the backbone's, and half of that.

Deviations from the authors' code: no biases before a norm, where they change nothing; ReLU where its fused norm has a
leaky one of slope 0.01. Keys and values are of one width, so attention keeps no N x N weights on any device.
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
from rayseg.heads._blocks import Norm, conv_norm_relu
from rayseg.heads.fcn import Fcn


class Config(HeadConfig):
    """`channels` is the width of the context, a quarter of the backbone's when absent; pixels attend at half of it."""

    name: Literal["ocnet"] = "ocnet"
    channels: Annotated[int, Field(ge=8, multiple_of=2)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05


class ObjectContext(nn.Module):
    """The block alone: attention of all pixels to all, beside what it came from."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.key = conv_norm_relu(channels, channels // 2, norm=norm)
        self.value = nn.Conv2d(channels, channels // 2, 1)
        self.expand = nn.Conv2d(channels // 2, channels, 1)
        self.fuse = conv_norm_relu(2 * channels, channels, norm=norm)

    def initialise(self) -> None:
        """Start without context."""
        nn.init.zeros_(self.expand.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        k, v = (y.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for y in (self.key(x_BCHW), self.value(x_BCHW)))
        context_B1NC = functional.scaled_dot_product_attention(k, k, v)
        context_BCHW = context_B1NC.squeeze(1).transpose(1, 2).unflatten(2, x_BCHW.shape[-2:])
        return self.fuse(torch.cat([self.expand(context_BCHW), x_BCHW], 1))


class Head(SegmentationHead):
    """`ObjectContext` on the deepest features, reduced by a 3x3."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        self.norm, self.dropout = config.norm, config.dropout
        width = config.channels or max(spec.channels[-1] // 8 * 2, 8)
        self.layers = nn.Sequential(
            conv_norm_relu(spec.channels[-1], width, 3, norm=config.norm),
            ObjectContext(width, norm=config.norm),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(width, num_classes, 1),
        )

    def stage_auxiliary_head(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the auxiliary head: an FCN's, half as wide as the stage."""
        return Fcn(in_channels, max(in_channels // 2, 1), num_classes, norm=self.norm, dropout=self.dropout)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.layers(features[-1])}

"""ASPP: atrous spatial pyramid pooling, "Rethinking Atrous Convolution", https://arxiv.org/abs/1706.05587, Figure 5.

Branches: the pooled image, a 1x1, and 3x3 at three rates; concatenated, 1x1, classifier. The paper's rates, 12/24/36 at
output stride 8 and 6/12/18 at 16, are 96, 192 and 288 input pixels: so they are written for any stride.

Deviation: a batch of one image has no batch statistics for the pooled image; see `PooledBatchNorm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, conv_norm_relu, pooled_conv_norm_relu


class Config(HeadConfig):
    """`channels` is the width of each branch and of the result; `rates` default to the paper's for the stride."""

    name: Literal["aspp"] = "aspp"
    channels: Annotated[int, Field(ge=1)] = 256
    rates: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


def paper_rates(stride: int) -> tuple[int, ...]:
    """Give the paper's three rates for features of this stride: 12, 24, 36 at 8."""
    return tuple(max(96 * n // stride, 1) for n in (1, 2, 3))


class Aspp(nn.Module):
    """The pyramid alone: (B, in_channels, h, w) to (B, out_channels, h, w)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int],
        *,
        inner: int,
        norm: Norm = "batch",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.branches = nn.ModuleList(
            [conv_norm_relu(in_channels, inner, norm=norm)]
            + [conv_norm_relu(in_channels, inner, 3, norm=norm, dilation=rate) for rate in rates]
        )
        self.image = pooled_conv_norm_relu(in_channels, inner, norm=norm)
        self.project = conv_norm_relu((len(rates) + 2) * inner, out_channels, norm=norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Concatenate all branches, project, drop."""
        image = self.image(x_BCHW).expand(-1, -1, *x_BCHW.shape[-2:])
        maps = [*(branch(x_BCHW) for branch in self.branches), image]
        return self.dropout(self.project(torch.cat(maps, 1)))


class Head(SegmentationHead):
    """DeepLabv3: `Aspp` on the deepest features and a 1x1 classifier."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        rates = paper_rates(spec.strides[-1]) if config.rates is None else config.rates
        width = config.channels
        self.aspp = Aspp(spec.channels[-1], width, rates, inner=width, norm=config.norm, dropout=config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.classify(self.aspp(features[-1]))}

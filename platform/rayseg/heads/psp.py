"""PSP: pyramid pooling, "Pyramid Scene Parsing Network", https://arxiv.org/abs/1612.01105, Figure 3.

The map pooled to 1x1, 2x2, 3x3 and 6x6, each reduced to a quarter of the channels, resized and concatenated with the
map; 3x3, classifier. Parameters are those of the authors' PyTorch code: 65.58 M on ResNet-101 with 19 classes.

Deviations: resizing uses align_corners=False (the code's True belongs with crops of 8k+1 pixels); a batch of one image
has no batch statistics for the 1x1 level, see `PooledBatchNorm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, conv_norm_relu, pooled_conv_norm_relu, resized


class Config(HeadConfig):
    """`channels` is the width of the last 3x3, a quarter of the backbone's when absent; `bins` the pyramid's levels."""

    name: Literal["psp"] = "psp"
    channels: Annotated[int, Field(ge=1)] | None = None
    bins: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 3, 6)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Ppm(nn.Module):
    """The pyramid alone: (B, in_channels, h, w) to (B, out_channels, h, w)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bins: Sequence[int] = (1, 2, 3, 6), norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        inner = max(in_channels // 4, 1)
        self.levels = nn.ModuleList(pooled_conv_norm_relu(in_channels, inner, norm=norm, cells=size) for size in bins)
        self.fuse = conv_norm_relu(in_channels + len(bins) * inner, out_channels, 3, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Concatenate the map with its pooled levels, fuse."""
        levels = [resized(level(x_BCHW), x_BCHW) for level in self.levels]
        return self.fuse(torch.cat([x_BCHW, *levels], 1))


class Head(SegmentationHead):
    """PSPNet: `Ppm` on the deepest features, dropout, a 1x1 classifier."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 1)
        self.ppm = Ppm(spec.channels[-1], width, bins=config.bins, norm=config.norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.classify(self.dropout(self.ppm(features[-1])))}

"""GAP: global average pooling as context, "ParseNet: Looking Wider to See Better", https://arxiv.org/abs/1506.04579.

What later papers compare with (DGCWNet, Table 2): the map pooled to one pixel, a 1x1, and the vector put beside every
pixel of the map. The head then has the FCN's layers: 3x3, dropout, classifier.

Deviations: ParseNet scales both parts to unit length with a learnt factor before it concatenates them; here, as in the
image branch of ASPP, the norm after the 1x1 stands for it. A batch of one image: see `PooledBatchNorm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, pooled_conv_norm_relu
from rayseg.heads.fcn import Fcn


class Config(HeadConfig):
    """`channels` is the width of the pooled vector and of the 3x3; a quarter of the backbone's channels when absent."""

    name: Literal["gap"] = "gap"
    channels: Annotated[int, Field(ge=1)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Gap(nn.Module):
    """The context alone: pool, 1x1 with norm and ReLU, the vector at every pixel."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.out_channels = out_channels
        self.layers = pooled_conv_norm_relu(in_channels, out_channels, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w), which is the same at every pixel."""
        return self.layers(x_BCHW).expand(-1, -1, *x_BCHW.shape[2:])


class Head(SegmentationHead):
    """The deepest features with their `Gap` beside them, in an `Fcn`."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        in_channels = spec.channels[-1]
        width = config.channels or max(in_channels // 4, 1)
        self.context = Gap(in_channels, width, norm=config.norm)
        self.layers = Fcn(in_channels + width, width, num_classes, norm=config.norm, dropout=config.dropout)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        x = features[-1]
        return {"main": self.layers(torch.cat([x, self.context(x)], 1))}

"""FCN: the baseline without context, and the auxiliary head that the papers put on the last-but-one stage.

"Fully Convolutional Networks for Semantic Segmentation", https://arxiv.org/abs/1411.4038, in the form that PSPNet's
line of papers compares with: 3x3 to a quarter of the channels, norm, ReLU, dropout, 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, conv_norm_relu


class Config(HeadConfig):
    """`channels` is the width of the 3x3; a quarter of the backbone's channels when absent."""

    name: Literal["fcn"] = "fcn"
    channels: Annotated[int, Field(ge=1)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Fcn(nn.Sequential):
    """3x3 with norm and ReLU, dropout of whole maps, 1x1 to the classes."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, norm: Norm = "batch", dropout: float = 0.1
    ) -> None:
        super().__init__(
            conv_norm_relu(in_channels, channels, 3, norm=norm),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )


class Head(SegmentationHead):
    """An `Fcn` on the deepest features."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 1)
        self.layers = Fcn(spec.channels[-1], width, num_classes, norm=config.norm, dropout=config.dropout)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.layers(features[-1])}

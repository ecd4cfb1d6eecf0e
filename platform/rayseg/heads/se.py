"""SE: "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507, Figure 2, eq. 2 to 4.

The map pooled to one pixel, two fully connected layers, a sigmoid: a weight per channel and image, which the map is
multiplied by. As a context head, what later papers compare with (DGCWNet, Table 2), it stands in the FCN's layers: 3x3,
`SqueezeExcitation`, dropout, classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import conv_norm_relu


class Config(HeadConfig):
    """`channels` of the 3x3, a quarter of the backbone's when absent; `reduction` is how much the squeeze narrows."""

    name: Literal["se"] = "se"
    channels: Annotated[int, Field(ge=1)] | None = None
    reduction: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class SqueezeExcitation(nn.Module):
    """The block alone: `x * sigmoid(expand(relu(squeeze(mean x))))`, `hidden` channels wide inside."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        return x_BCHW * self.expand(self.squeeze(mean_BC11).relu()).sigmoid()


class Head(SegmentationHead):
    """An FCN whose 3x3 is reweighted by `SqueezeExcitation`."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 1)
        self.layers = nn.Sequential(
            conv_norm_relu(spec.channels[-1], width, 3, norm=config.norm),
            SqueezeExcitation(width, max(width // config.reduction, 1)),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.layers(features[-1])}

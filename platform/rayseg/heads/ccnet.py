"""CCNet: "Criss-Cross Attention for Semantic Segmentation", https://arxiv.org/abs/1811.11721, eq. 1 and 2.

Each pixel attends to its row and its column; done twice with the same weights (R = 2), information of every pixel
reaches every other. Layout: 3x3, attention, 3x3, concatenated with the input, 3x3, dropout, classifier; 66 558 036
parameters on resnet101s with 19 classes, without the auxiliary head. That one is half as wide as its stage.

Queries and keys have an eighth of the channels and biases, logits are not scaled, and a weight that starts at 0 adds
the result to the input: so in the authors' code (the paper's eq. 2 has no such weight). The category consistent loss
of the journal version is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import ContextFuse
from rayseg.heads.fcn import Fcn
from rayseg.ops.criss_cross import criss_cross


class Config(HeadConfig):
    """`channels`: width at which pixels attend, a quarter of the backbone's when absent; `recurrence`: how often."""

    name: Literal["ccnet"] = "ccnet"
    channels: Annotated[int, Field(ge=8)] | None = None
    recurrence: Annotated[int, Field(ge=1)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class CrissCross(nn.Module):
    """The block alone: `recurrence` times, each pixel gets a mean of its row and column, weighted by affinity."""

    def __init__(self, channels: int, *, recurrence: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        for _ in range(self.recurrence):
            attended = criss_cross(self.query(x_BCHW), self.key(x_BCHW), self.value(x_BCHW))
            x_BCHW = self.gamma * attended + x_BCHW
        return x_BCHW

    def extra_repr(self) -> str:
        return f"recurrence={self.recurrence}"


class Head(SegmentationHead):
    """`CrissCross` in CCNet's layout."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        self.norm = config.norm
        width = config.channels or max(spec.channels[-1] // 4, 8)
        context = CrissCross(width, recurrence=config.recurrence)
        self.layers = ContextFuse(spec.channels[-1], width, context, norm=config.norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def stage_auxiliary_head(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the auxiliary head: an FCN's, half as wide as the stage."""
        return Fcn(in_channels, max(in_channels // 2, 1), num_classes, norm=self.norm)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.classify(self.dropout(self.layers(features[-1])))}

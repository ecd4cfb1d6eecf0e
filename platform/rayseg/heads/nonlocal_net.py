"""Non-local: "Non-local Neural Networks", https://arxiv.org/abs/1711.07971, eq. 1 with the dot product of eq. 4.

The form that segmentation papers compare with (DANet's position attention in CCNet's layout): keys of an eighth of the
channels, values of all, biases, no scaling, added to the input by a weight that starts at 0. Layout: 3x3, attention,
3x3, concatenated with the input, 3x3, dropout, classifier; 66 558 036 parameters on resnet101s with 19 classes.

Attention runs in `scaled_dot_product_attention`. Keys and values differ in width, so on the CPU it takes torch's plain
path, which keeps N x N weights: 21 MB an image at N = 48 x 48.
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


class Config(HeadConfig):
    """`channels` is the width at which pixels attend; a quarter of the backbone's channels when absent."""

    name: Literal["nonlocal_net"] = "nonlocal_net"
    channels: Annotated[int, Field(ge=8)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class NonLocal(nn.Module):
    """The block alone: each pixel gets a mean of all pixels' values, weighted by its affinity to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = (
            layer(x_BCHW).flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
            for layer in (self.query, self.key, self.value)
        )
        y_B1NC = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.gamma * y_B1NC.squeeze(1).transpose(1, 2).reshape(x_BCHW.shape) + x_BCHW


class Head(SegmentationHead):
    """`NonLocal` in CCNet's layout."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 8)
        self.layers = ContextFuse(spec.channels[-1], width, NonLocal(width), norm=config.norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride."""
        return {"main": self.classify(self.dropout(self.layers(features[-1])))}

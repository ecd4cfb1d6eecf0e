"""DANet: "Dual Attention Network for Scene Segmentation", https://arxiv.org/abs/1809.02983, eq. 1 to 4.

Two branches on the deepest features, each 3x3, attention, 3x3: position attention, which is `NonLocal`, and channel
attention, which weights channels by their affinity over all pixels. Their sum is classified; in training each branch
has a classifier of its own, all three with equal weight and without an auxiliary head, as in the authors' code.
66 578 555 parameters on resnet101s with 19 classes.

Eq. 3 takes softmax(x_i . x_j) of two channels. The authors' code takes softmax(max - x_i . x_j), which is
softmax(-x_i . x_j): the channels *least* alike weigh most. That code gave the published results, so it is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, conv_norm_relu
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.ops.attention import without_autocast


class Config(HeadConfig):
    """`channels` is the width at which pixels and channels attend; a quarter of the backbone's when absent."""

    name: Literal["danet"] = "danet"
    channels: Annotated[int, Field(ge=8)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class ChannelAttention(nn.Module):
    """CAM: each channel gets a mean of channels, the least alike weighing most, by a factor that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor, centres_BKHW: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; the channels attend to each other, or to K centres where given."""
        x_BCN = x_BCHW.flatten(2)
        centres_BKN = x_BCN if centres_BKHW is None else centres_BKHW.flatten(2)
        attended = torch.bmm(_unlikeness(x_BCN, centres_BKN), centres_BKN)
        return self.gamma * attended.view(x_BCHW.shape) + x_BCHW


def _unlikeness(x_BCN: Tensor, centres_BKN: Tensor) -> Tensor:
    """Weigh K centres for each of C channels: `softmax(-x . centre)`, (B, C, K)."""
    # A sum over thousands of pixels, of which the differences count: at least float32 also under autocast.
    exact = torch.promote_types(x_BCN.dtype, torch.float32)
    with without_autocast(x_BCN):
        affinity_BCK = torch.bmm(x_BCN.to(exact), centres_BKN.to(exact).transpose(1, 2))
        return affinity_BCK.neg().softmax(-1)


class Branch(nn.Module):
    """One of the two: 3x3 with norm and ReLU, an attention, 3x3 with norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, attention: nn.Module, *, norm: Norm) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, channels, 3, norm=norm)
        self.attention = attention
        self.refine = conv_norm_relu(channels, channels, 3, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        return self.refine(self.attention(self.reduce(x_BCHW)))


class Head(SegmentationHead):
    """The two branches, their sum classified, and in training each of them."""

    stage_auxiliary = False

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width = config.channels or max(spec.channels[-1] // 4, 8)
        self.position = Branch(spec.channels[-1], width, NonLocal(width), norm=config.norm)
        self.channel = Branch(spec.channels[-1], width, ChannelAttention(), norm=config.norm)
        self.classify, self.classify_position, self.classify_channel = (
            nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(width, num_classes, 1)) for _ in range(3)
        )

    def loss_weights(self) -> dict[str, float]:
        """Weigh the branches' outputs like the main one."""
        return {"position": 1.0, "channel": 1.0}

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride; in training `"position"` and `"channel"` beside it."""
        position, channel = self.position(features[-1]), self.channel(features[-1])
        outputs = {"main": self.classify(position + channel)}
        if self.training:
            outputs |= {"position": self.classify_position(position), "channel": self.classify_channel(channel)}
        return outputs

"""DF-DAM: "Differentiating Features for Scene Segmentation Based on Dedicated Attention Mechanisms".

https://arxiv.org/abs/1911.08149, Figures 2 to 4 and eq. 9, 10, 12. The two deepest stages L and H give context, the
shallowest S gives space; each is reduced to 128 channels. The dual attention fusion module (DAFM) weights channels of
both L and H by what H says; the 2D position attention module (2DPAM) then decides at each pixel how much of S is added.
Made for a backbone without dilation (`backbone.output_stride = 32`); auxiliary outputs on context and space.

The paper gives no layer sizes. These fit its parameters and GFLOPs (Tables 4 and 6: 11.57 M and 10.31 G on resnet18
with 19 classes, 43.24 M and 35.52 G on resnet101 with 21): H is resized before it is reduced, the channel weights come
from H as the backbone gives it with 8 units between, and the three classifiers are alike, a 3x3 to 64 and a 1x1.
Tables 1 and 2 compare with `pam = false`, and with `dafm = false` too, the sums that both replace.

Choices that neither text nor figures settle: convolutions have a norm and no bias, 2DPAM's last one is 1x1, the spatial
output is read from the weighted S, resizing uses align_corners=False.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import Norm, conv_norm_relu, resized


class Config(HeadConfig):
    """`channels` is the width of context and space; without `dafm` or `pam` features are summed unweighted."""

    name: Literal["dfdam"] = "dfdam"
    channels: Annotated[int, Field(ge=16, multiple_of=16)] = 128
    dafm: bool = True
    pam: bool = True


class DualAttentionFusion(nn.Module):
    """DAFM: add two maps of `channels`, each channel of each weighted by the raw high-level map's mean."""

    def __init__(self, high_channels: int, channels: int) -> None:
        super().__init__()
        self.high = _channel_weights(high_channels, channels)
        self.low = _channel_weights(high_channels, channels)

    def forward(self, high_BCHW: Tensor, low_BCHW: Tensor, raw_BDhw: Tensor) -> Tensor:
        """Fuse (B, channels, H, W) twice; the weights are read from (B, high_channels, h, w)."""
        return self.high(raw_BDhw) * high_BCHW + self.low(raw_BDhw) * low_BCHW


def _channel_weights(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(in_channels, channels // 16, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels // 16, channels, 1),
        nn.Sigmoid(),
    )


class PositionConfidence(nn.Module):
    """2DPAM: weight each pixel of the spatial map by a confidence read from it and the context."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.confidence = nn.Sequential(
            conv_norm_relu(2 * channels, channels // 2, norm=norm),
            conv_norm_relu(channels // 2, channels // 2, 3, norm=norm),
            nn.Conv2d(channels // 2, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, space_BCHW: Tensor, context_BCHW: Tensor) -> Tensor:
        """Map two (B, channels, H, W) to the weighted first (eq. 9)."""
        return self.confidence(torch.cat([space_BCHW, context_BCHW], 1)) * space_BCHW


class Head(SegmentationHead):
    """DF-DAM on the shallowest and the two deepest of the backbone's stages."""

    stage_auxiliary = False

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        if len(spec.channels) < 3:
            fix = "choose one with at least three stages, e.g. resnet18"
            raise UsageError(f"the backbone has {len(spec.channels)} feature maps", "head.name = dfdam", fix)
        width, norm = config.channels, config.norm
        self.reduce_space = conv_norm_relu(spec.channels[0], width, norm=norm)
        self.reduce_low = conv_norm_relu(spec.channels[-2], width, norm=norm)
        self.reduce_high = conv_norm_relu(spec.channels[-1], width, norm=norm)
        self.dafm = DualAttentionFusion(spec.channels[-1], width) if config.dafm else None
        self.pam = PositionConfidence(width, norm=norm) if config.pam else None
        self.classify, self.classify_context, self.classify_space = (
            nn.Sequential(conv_norm_relu(width, width // 2, 3, norm=norm), nn.Conv2d(width // 2, num_classes, 1))
            for _ in range(3)
        )

    def loss_weights(self) -> dict[str, float]:
        """Give the paper's lambda_c and lambda_s (eq. 12)."""
        return {"context": 0.4, "spatial": 0.1}

    def context(self, low_BCHW: Tensor, high_BDhw: Tensor) -> Tensor:
        """Fuse the two deepest stages at the size of the shallower one."""
        high = self.reduce_high(resized(high_BDhw, low_BCHW))
        low = self.reduce_low(low_BCHW)
        return high + low if self.dafm is None else self.dafm(high, low, high_BDhw)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the shallowest stride; in training `"context"` and `"spatial"` beside it."""
        context = self.context(features[-2], features[-1])
        space = self.reduce_space(features[0])
        large = resized(context, space)
        if self.pam is not None:
            space = self.pam(space, large)
        outputs = {"main": self.classify(space + large)}
        if self.training:
            outputs |= {"context": self.classify_context(context), "spatial": self.classify_space(space)}
        return outputs

"""What three heads share: the normalisation choice, the convolution with norm and ReLU, the layout around a context."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["batch", "group"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Normalise `channels` maps: by the batch, or by 32 groups of channels (fewer where 32 does not divide)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(32, channels), channels)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch norm for maps pooled down to a pixel: where a batch holds one value per channel, it has no variance.

    Torch raises then. This uses (and leaves) the running statistics, as in evaluation; any other batch is normal.
    `SyncBatchNorm.convert_sync_batchnorm` replaces it, which counts the pixels of all ranks.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w)."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def pooled_norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Normalise maps that may be one pixel: `norm_layer` with at least two values in what it averages over."""
    if kind == "batch":
        return PooledBatchNorm(channels)
    return nn.GroupNorm(math.gcd(32, max(channels // 2, 1)), channels)


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    norm: Norm = "batch",
    dilation: int = 1,
    stride: int = 1,
) -> nn.Sequential:
    """Convolve without bias at 'same' padding, normalise, ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        ),
        norm_layer(norm, out_channels),
        nn.ReLU(inplace=True),
    )


class ContextFuse(nn.Module):
    """The layout that CCNet, DANet, OCNet and GALD v1 put around a context module at a reduced width.

    x -> 3x3 -> context -> 3x3 = y, then 3x3 on [x; y]; each 3x3 with norm and ReLU.
    """

    def __init__(self, in_channels: int, channels: int, context: nn.Module, *, norm: Norm, wide: int = 1) -> None:
        """Put `context`, which maps `channels` to `wide * channels`, between `in_channels` and `channels`."""
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, channels, 3, norm=norm)
        self.context = context
        self.refine = conv_norm_relu(wide * channels, channels, 3, norm=norm)
        self.fuse = conv_norm_relu(in_channels + channels, channels, 3, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        y = self.refine(self.context(self.reduce(x_BCHW)))
        return self.fuse(torch.cat([x_BCHW, y], 1))

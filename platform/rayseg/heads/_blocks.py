"""What the heads share: norms, convolutions with norm and ReLU, resizing, odd kernels, the layout around a context."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo
from torch import Tensor, nn
from torch.nn import functional

from rayseg.errors import UsageError
from rayseg.ops.rank_norm import RankBatchNorm

Norm = Literal["batch", "sync_batch", "group"]


def _centred(size: int, info: ValidationInfo) -> int:
    if size % 2 == 0:
        raise UsageError(f"{info.field_name} = {size} has no centre", f"head.{info.field_name}", "choose 3, 5 or 7")
    return size


KernelSize = Annotated[int, Field(ge=3), AfterValidator(_centred)]
"""An option: the width of a window with a pixel in its middle."""


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Normalise `channels` maps: by a worker's batch, by those of all workers, or by 32 groups of channels.

    There are fewer groups where 32 does not divide the channels.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "sync_batch":
        return RankBatchNorm(channels)
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
    if kind == "sync_batch":
        return RankBatchNorm(channels, pooled=True)
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


def pooled_conv_norm_relu(in_channels: int, out_channels: int, *, norm: Norm, cells: int = 1) -> nn.Sequential:
    """Average over `cells` x `cells` parts of the map, convolve 1x1 without bias, normalise, ReLU."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(cells),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        pooled_norm_layer(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def resized(x_BCHW: Tensor, like_BDHW: Tensor, *, align_corners: bool = False) -> Tensor:
    """Interpolate to the height and width of another map, bilinearly."""
    size = like_BDHW.shape[-2:]
    return functional.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=align_corners)


class ContextFuse(nn.Module):
    """The layout of CCNet, which `nonlocal_net`, `cgnl` and GALD v1 also put around a context at a reduced width.

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

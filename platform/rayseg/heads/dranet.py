"""DRANet: "Scene Segmentation With Dual Relation-Aware Attention Network", https://doi.org/10.1109/TNNLS.2020.3006524.

DANet's two branches made compact: pixels attend to the 50 cells of a pyramid (1, 2, 3 and 6 squared, CPAM), channels to
1/16 as many mixtures of channels (CCAM), so the cost grows linearly with the pixels. The branches are concatenated,
3x3. The cross-level gating decoder then adds detail: the shallowest features, reduced to 32 channels and weighted at
each pixel by a gate that sees both, are concatenated with the resized context; 3x3 twice, dropout, classifier.

Layer sizes and the sign of the channel attention (see `danet`) are those of the authors' code. `decoder = false` leaves
the detail out: what the Denoised NL paper calls DRANet* (Tables IV, V). CPAM and CCAM cost 0.735 GFLOP at 48 x 48 and
512 channels, Table V says 0.76.

Deviation: resizing uses align_corners=False (the code's True belongs with crops of 8k+1 pixels).
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
from rayseg.heads.danet import Branch, ChannelAttention
from rayseg.ops.attention import without_autocast

CELLS = (1, 2, 3, 6)
DETAIL_CHANNELS = 32


class Config(HeadConfig):
    """`channels`: width of each branch, a quarter of the backbone's when absent; `decoder` adds shallow detail."""

    name: Literal["dranet"] = "dranet"
    channels: Annotated[int, Field(ge=16, multiple_of=16)] | None = None
    decoder: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class CompactPosition(nn.Module):
    """CPAM: each pixel gets a mean of the pyramid's cells, weighted by its affinity to them."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            pooled_conv_norm_relu(channels, channels, norm=norm, cells=cells) for cells in CELLS
        )
        self.query = nn.Conv2d(channels, channels // 4, 1)
        self.key = nn.Linear(channels, channels // 4)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        centres_BMC = torch.cat([level(x_BCHW).flatten(2) for level in self.levels], 2).transpose(1, 2)
        weights_BNM = likeness(self.query(x_BCHW).flatten(2).transpose(1, 2), self.key(centres_BMC))
        attended_BCN = torch.bmm(self.value(centres_BMC).transpose(1, 2), weights_BNM.transpose(1, 2))
        return self.gamma * attended_BCN.view(x_BCHW.shape) + x_BCHW


def likeness(q_BND: Tensor, k_BMD: Tensor) -> Tensor:
    """Weigh M centres for each of N pixels: softmax of the products of queries and keys, (B, N, M)."""
    # Unscaled logits are too large for bfloat16: at least float32 also under autocast.
    exact = torch.promote_types(q_BND.dtype, torch.float32)
    with without_autocast(q_BND):
        return torch.bmm(q_BND.to(exact), k_BMD.to(exact).transpose(1, 2)).softmax(-1)


class CompactChannel(nn.Module):
    """CCAM: channels attend to a sixteenth as many centres, which a 1x1 mixes from all of them."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.centres = conv_norm_relu(channels, channels // 16, norm=norm)
        self.attention = ChannelAttention()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.attention(x_BCHW, self.centres(x_BCHW))


class GatedDetail(nn.Module):
    """The cross-level gating decoder: shallow features where the gate lets them, beside the context."""

    def __init__(self, low_channels: int, channels: int, *, norm: Norm) -> None:
        super().__init__()
        both = channels + DETAIL_CHANNELS
        self.reduce = conv_norm_relu(low_channels, DETAIL_CHANNELS, 3, norm=norm)
        self.gate = nn.Sequential(nn.Conv2d(both, 1, 1), nn.Sigmoid())
        self.gamma = nn.Parameter(torch.ones(1))
        self.fuse = conv_norm_relu(both, channels, 3, norm=norm)
        self.refine = conv_norm_relu(channels, channels, 3, norm=norm)

    def forward(self, low_BDHW: Tensor, context_BChw: Tensor) -> Tensor:
        """Map (B, low_channels, H, W) and (B, channels, h, w) to (B, channels, H, W)."""
        detail = self.reduce(low_BDHW)
        context = resized(context_BChw, detail)
        gated = self.gamma * self.gate(torch.cat([detail, context], 1)) * detail
        return self.refine(self.fuse(torch.cat([gated, context], 1)))


class Head(SegmentationHead):
    """CPAM and CCAM on the deepest features, and the decoder on the shallowest."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        width, norm = config.channels or max(spec.channels[-1] // 64 * 16, 16), config.norm
        self.position = Branch(spec.channels[-1], width, CompactPosition(width, norm=norm), norm=norm)
        self.channel = Branch(spec.channels[-1], width, CompactChannel(width, norm=norm), norm=norm)
        self.fuse = conv_norm_relu(2 * width, width // 2, 3, norm=norm)
        self.decoder = GatedDetail(spec.channels[0], width // 2, norm=norm) if config.decoder else None
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width // 2, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the shallowest features' stride, or without decoder at the deepest's."""
        y = self.fuse(torch.cat([self.position(features[-1]), self.channel(features[-1])], 1))
        if self.decoder is not None:
            y = self.decoder(features[0], y)
        return {"main": self.classify(self.dropout(y))}

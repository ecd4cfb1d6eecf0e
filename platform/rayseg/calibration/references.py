"""Nets that the papers compare with and that are no heads here, assembled from parts to be counted. Weights are meta.

DeepLabv2, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected
CRFs", https://arxiv.org/abs/1606.00915, section 3, and PSPNet with an auxiliary head as DF-DAM counts them; a
head with ASPP of GALD's Table IV; the attentions of denoised NL's Table V, its own with every N x N map kept.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayseg import segmenter
from rayseg.backbone import Backbone
from rayseg.backbone import Config as BackboneConfig
from rayseg.heads._blocks import conv_norm_relu
from rayseg.heads.aspp import Aspp
from rayseg.heads.danet import ChannelAttention
from rayseg.heads.denoised_nl import DenoisedNonLocal
from rayseg.heads.dranet import CompactChannel, CompactPosition
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.schema import parse
from rayseg.segmenter import Segmenter


@functools.cache
def model(head: str, backbone: str, num_classes: int, *, output_stride: int = 8, **options: Any) -> Segmenter:
    """Build the skeleton of a head, with its options, on a backbone. Dilations change no count: timm's stay."""
    mapping = {
        "backbone": {"name": backbone, "output_stride": output_stride},
        "head": {"name": head, **options},
        "num_classes": num_classes,
    }
    return segmenter.skeleton(parse(segmenter.Config, mapping, "paper figures"))


def plain_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone's skeleton."""
    with torch.device("meta"):
        return Backbone(parse(BackboneConfig, {"name": name, **options}, "paper figures"))


class DeepLabV2(nn.Module):
    """ResNet-101 at stride 8 as Caffe's: strides in the 1x1, pooling rounds up; four 3x3 classifiers, summed."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = plain_backbone("resnet101")
        layers: Any = self.backbone.model
        layers.maxpool.ceil_mode = True
        layers.layer2[0].conv1.stride, layers.layer2[0].conv2.stride = (2, 2), (1, 1)
        with torch.device("meta"):
            self.classify = nn.ModuleList(
                nn.Conv2d(2048, num_classes, 3, padding=rate, dilation=rate) for rate in (6, 12, 18, 24)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map (B,3,H,W) to logits at stride 8."""
        deepest = self.backbone(images)[-1]
        return sum((layer(deepest) for layer in self.classify), start=torch.zeros((), device=images.device))


def psp_net(num_classes: int) -> Segmenter:
    """Build PSPNet on ResNet-101 with the auxiliary head that gives DF-DAM's figures: as wide as its stage, biased."""
    net = model.__wrapped__("psp", "resnet101", num_classes)  # its own, not the cached one: it is changed
    with torch.device("meta"):
        net.auxiliary = nn.Sequential(
            nn.Conv2d(1024, 1024, 3, padding=1), nn.BatchNorm2d(1024), nn.ReLU(), nn.Conv2d(1024, num_classes, 1)
        )
    return net


@functools.cache
def gald_aspp(backbone: str) -> nn.ModuleList:
    """Build GALD's FCN + ASPP baseline as it was fitted: [ASPP(X) 512 ; X_l 512] -> 3x3 -> 3x3 -> 19 classes."""
    with torch.device("meta"):
        head = [
            Aspp(2048, 512, (12, 24, 36), inner=256),
            conv_norm_relu(2048, 512),
            conv_norm_relu(1024, 512, 3),
            conv_norm_relu(512, 512, 3),
            nn.Conv2d(512, 19, 1),
        ]
    return nn.ModuleList([plain_backbone(backbone), *head])


class DualAttention(nn.Module):
    """DANet's position and channel attention, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.channel = NonLocal(512), ChannelAttention()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, 512, H, W) to the same shape."""
        y: Tensor = self.position(x_BCHW) + self.channel(x_BCHW)
        return y


class CompactAttention(nn.Module):
    """DRANet's, likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.channel = CompactPosition(512, norm="batch"), CompactChannel(512, norm="batch")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, 512, H, W) to the same shape."""
        y: Tensor = self.position(x_BCHW) + self.channel(x_BCHW)
        return y


class Rectified(nn.Module):
    """Denoised attention whose coarse classes are the first 19 channels of its input: shapes count, not values."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = DenoisedNonLocal(512, kernel_size=3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, 512, H, W) to the same shape."""
        y: Tensor = self.attend(x_BCHW, x_BCHW[:, :19])
        return y


class NaiveDenoised(nn.Module):
    """Denoised non-local attention (Figure 4) with every N x N map kept; classes as in `Rectified`."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(512, 64, 1, bias=False) for _ in range(2))
        self.value = nn.Conv2d(512, 512, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, 512, H, W) to the same shape."""
        B, _, H, W = x_BCHW.shape
        q_BDN, k_BDN, v_BCN = (f(x_BCHW).flatten(2) for f in (self.query, self.key, self.value))
        p_BKN = x_BCHW[:, :19].flatten(2)
        attn_BNN = (q_BDN.mT @ k_BDN).softmax(-1)
        attn_BNN = attn_BNN * (p_BKN.mT @ p_BKN).sigmoid()
        windows_BNTN = _windows(attn_BNN.view(B, H * W, H, W))
        attn_BNN = (windows_BNTN * self._similar(q_BDN, k_BDN.view(B, 64, H, W))).sum(2)
        return (v_BCN @ attn_BNN.mT).view_as(x_BCHW)

    def _similar(self, q_BDN: Tensor, k_BDHW: Tensor) -> Tensor:
        taps_BNTD = _windows(k_BDHW).permute(0, 3, 2, 1)
        return (taps_BNTD @ q_BDN.mT.unsqueeze(-1)).squeeze(-1).mT.unsqueeze(1).sigmoid()


def _windows(x_BCHW: Tensor) -> Tensor:
    """Copy the 3 x 3 pixels around each: (B, C, 9, HW)."""
    return functional.unfold(x_BCHW, 3, padding=1).unflatten(1, (x_BCHW.shape[1], 9))

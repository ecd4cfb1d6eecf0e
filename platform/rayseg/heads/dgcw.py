"""DGCWNet: "Distance Guided Channel Weighting for Semantic Segmentation", Figure 2, eq. 1 to 5, Tables 1 and 2.

https://arxiv.org/abs/2004.12679. Each pixel i meets each pixel j: i's value is weighted channel by channel with their
squared distance, so that channels in which the two differ count, and two 1x1 convolutions make a relation of it; i gets
the sum of its relations to all j. The sum is `ops/channel_weighting.py`'s. No code was released.

Layout: base -> 3x3 to `channels` -> a quarter of the size -> context -> back, beside the base's map -> 3x3 ->
classifier. Bases are Table 1's: the backbone, PPM, ASPP with 512 channels a branch and OCNet's 1x1 to 512. `context`
puts the rows of Table 1 (`conv`) and of Table 2 (`gap`, `se`, `nl` at full size, `nl_reduced`) in the module's place;
"none" is the base alone, as both tables have it.

Read so:
* eq. 2 and 5 count pixels with C: i and j run over all N pixels. Eq. 4 weights V_i, not V_j, and says so twice.
* g's two convolutions have biases and no norm; where all distances are 0, eps keeps DBS at weight 0.
* `conv` takes the weighting away: `F + g(V)`. `gap` reads the base's map, the others the reduced one.
* `se` has 128 channels inside too, and so have the queries and keys of `nl`: "all convolution layers in these methods".
* How a bare base is classified is not said: as its authors do it. PPM and ASPP end in a convolution of their own, so
  dropout and a 1x1 follow; on the backbone it is the FCN's 3x3 to a quarter of the channels, as wide as `fuse` is.

Deviations: the paper classifies the module's output as it is, at stride 32: `fuse` "none". That leaves all detail to
a bilinear x32; "concat", as CCNet and OCNet have it and as GAP needs it, is the default. The reducing convolution (3x3)
and the resizing (bilinear, align_corners=False) are not named there.

The sum grows with N: three times larger for a whole image of Cityscapes (N = 2048) than for a crop of 769 (N = 625).
Evaluate in windows of the crop's size, or train with `reduce` "mean". So that it starts about as large as F, the
module's weights start as torch's do, without biases; He's would make it 17 times F at N = 625, tanh's 1000 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError
from rayseg.heads import HeadConfig, SegmentationHead
from rayseg.heads._blocks import conv_norm_relu, resized
from rayseg.heads.aspp import Aspp, paper_rates
from rayseg.heads.gap import Gap
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.heads.psp import Ppm
from rayseg.heads.se import SqueezeExcitation
from rayseg.ops.channel_weighting import Weighting, dgcw

ASPP_CHANNELS = 512


class Config(HeadConfig):
    """The base, what stands in the module's place, and how it meets the base. Options that are not read are refused.

    With a context: `fuse` ("concat") and its `channels` (128). `weighting` ("dbs") and `reduce` over pixels j ("sum")
    are DGCW's; `downsample` ("bilinear") by `factor` (4) is done before `dgcw`, `conv` and `nl_reduced`.
    """

    name: Literal["dgcw"] = "dgcw"
    base: Literal["none", "psp", "aspp"] = "aspp"
    context: Literal["none", "dgcw", "conv", "gap", "se", "nl", "nl_reduced"] = "dgcw"
    fuse: Literal["concat", "none"] | None = None
    channels: Annotated[int, Field(ge=8)] | None = None
    weighting: Weighting | None = None
    reduce: Literal["sum", "mean"] | None = None
    downsample: Literal["bilinear", "average"] | None = None
    factor: Annotated[int, Field(ge=2)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {field: value for field, value in given.items() if value is not None or field not in _OPTIONAL}
        context = given.get("context", "dgcw")
        defaults = _defaults(context)
        for field in sorted(_OPTIONAL & given.keys() - defaults.keys()):
            what = f"{field} = {given[field]} would be ignored with context = {context}"
            raise UsageError(what, f"head.{field}", "drop it")
        if context == "gap" and given.get("fuse") == "none":
            what = "context = gap gives every pixel the same vector: with fuse = none nothing else is classified"
            raise UsageError(what, "head.fuse", "choose concat")
        return defaults | given


_OPTIONAL = {"fuse", "channels", "weighting", "reduce", "downsample", "factor"}


def _defaults(context: str) -> dict[str, Any]:
    """Give every optional option that this context reads, with its default."""
    defaults: dict[str, Any] = {} if context == "none" else {"fuse": "concat", "channels": 128}
    if context == "dgcw":
        defaults |= {"weighting": "dbs", "reduce": "sum"}
    if context in ("dgcw", "conv", "nl_reduced"):
        defaults |= {"downsample": "bilinear", "factor": 4}
    return defaults


class Dgcw(nn.Module):
    """The module alone: `F_i + sum_j g(W_ij . V_i)`, or the mean over j."""

    def __init__(self, channels: int, *, weighting: Weighting = "dbs", reduce: str = "sum") -> None:
        super().__init__()
        self.out_channels, self.weighting, self.reduce = channels, weighting, reduce
        self.query, self.key, self.value, self.first, self.last = (nn.Conv2d(channels, channels, 1) for _ in range(5))

    def initialise(self) -> None:
        """Start with torch's default weights, of a sixth of He's variance, and without biases."""
        for layer in (self.query, self.key, self.value, self.first, self.last):
            layer.reset_parameters()
            nn.init.zeros_(_matrix(layer)[1])

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = (layer(f_BCHW) for layer in (self.query, self.key, self.value))
        relations_BCHW = dgcw(q, k, v, *_matrix(self.first), *_matrix(self.last), weighting=self.weighting)
        num_pixels = f_BCHW.shape[2] * f_BCHW.shape[3]
        return f_BCHW + (relations_BCHW / num_pixels if self.reduce == "mean" else relations_BCHW)

    def extra_repr(self) -> str:
        return f"weighting={self.weighting}, reduce={self.reduce}"


def _matrix(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert convolution.bias is not None
    return convolution.weight.flatten(1), convolution.bias


class Unweighted(nn.Module):
    """Table 1's "+ conv": DGCW without its weighting, so without j: `F + g(V)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.value, self.first, self.last = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return f_BCHW + self.last(self.first(self.value(f_BCHW)).relu())


class Downsample(nn.Module):
    """Shrink a map by a factor, rounding up: 97 pixels to 25 by 4."""

    def __init__(self, method: str, factor: int) -> None:
        super().__init__()
        self.method, self.factor = method, factor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, ceil(H / factor), ceil(W / factor))."""
        size = (-(-x_BCHW.shape[2] // self.factor), -(-x_BCHW.shape[3] // self.factor))
        if self.method == "average":
            return functional.adaptive_avg_pool2d(x_BCHW, size)
        return functional.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        return f"method={self.method}, factor={self.factor}"


def base(config: Config, spec: FeatureSpec) -> tuple[nn.Module, int]:
    """Build the base network's part after the backbone; how many channels it gives."""
    in_channels, norm = spec.channels[-1], config.norm
    if config.base == "psp":
        width = max(in_channels // 4, 1)
        return Ppm(in_channels, width, norm=norm), width
    if config.base == "aspp":
        rates = paper_rates(spec.strides[-1])
        aspp = Aspp(in_channels, ASPP_CHANNELS, rates, inner=ASPP_CHANNELS, norm=norm)
        if config.context == "none":
            aspp.dropout.p = 0.0  # the head drops what it classifies: once
        return aspp, ASPP_CHANNELS
    return nn.Identity(), in_channels


def context(config: Config, in_channels: int, width: int) -> nn.Module:
    """Build what stands in the module's place, from the base's map to `width` channels, at its size or reduced."""
    norm = config.norm
    if config.context == "gap":
        return Gap(in_channels, width, norm=norm)
    layers: list[nn.Module] = [conv_norm_relu(in_channels, width, 3, norm=norm)]
    if config.downsample is not None and config.factor is not None:
        layers.append(Downsample(config.downsample, config.factor))
    if config.context == "dgcw":
        layers.append(Dgcw(width, weighting=config.weighting or "dbs", reduce=config.reduce or "sum"))
    elif config.context == "conv":
        layers.append(Unweighted(width))
    else:
        se = config.context == "se"
        layers.append(SqueezeExcitation(width, width) if se else NonLocal(width, key_channels=width))
    return nn.Sequential(*layers)


class Head(SegmentationHead):
    """DGCWNet on the deepest features."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        self.base, in_channels = base(config, spec)
        added, width = config.channels or 0, config.channels or in_channels
        self.context = context(config, in_channels, added) if added else None
        self.fuse = None
        if config.fuse == "concat" or (config.context, config.base) == ("none", "none"):
            width = max(spec.channels[-1] // 4, 1)
            self.fuse = conv_norm_relu(in_channels + added, width, 3, norm=config.norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride; without `fuse` at the context's."""
        x = self.base(features[-1])
        y = x if self.context is None else self.context(x)
        if self.fuse is not None:
            y = self.fuse(x if self.context is None else torch.cat([x, resized(y, x)], 1))
        return {"main": self.classify(self.dropout(y))}

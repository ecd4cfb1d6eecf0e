"""GALD: "Global Aggregation then Local Distribution for Scene Parsing", https://arxiv.org/abs/2107.13154.

Figures 5 and 6, Tables I and II. A context module (GA: PSP, ASPP, NL, CGNL) blurs small patterns; local distribution
(LD) then decides at each pixel how much of the context it takes: v1 by a mask from depthwise convolutions (eq. 1, 2),
v2 by local attention (eq. 8).

v1 follows the authors' code (lxtGH/GALD-DGCNet): GA at half resolution and LD inside `ContextFuse`; 52 402 662
parameters on resnet50s with 19 classes. Its block is (2 + M) X_g, eq. 2 says (1 + M) X_g: `ld_residual` chooses. It
resizes with align_corners=True, and so does v1 here.

v2 was never released. Here GA reduces the backbone's X to X_g, LD attends on [X_g; X], and the result is concatenated
with X reduced by a 1x1 to X_l: 2.294 M for LD, the paper's 2.3 M (Table IV). Without LD the layout is v2's. The text
calls r = 3 best, Table II(b) and the figures carried on (80.8) say r = 6: the default.

GA works at half the size (Section III-A, before either LD). v1's does as in its code; without v1, NL and CGNL do, after
the 3x3 that leads to them and by v1's layers. PSP and ASPP stay at full size there: pooling gains nothing, and ASPP has
its own rates for the backbone's stride.

Deviations: Table II(c) lost its marks; "key" is read as keys from [X_g; X] with queries from X_g, "query" as the
reverse. Queries and keys start small, so that logits, which eq. 8 does not scale, start near unit variance.
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
from rayseg.heads._blocks import ContextFuse, KernelSize, conv_norm_relu, norm_layer
from rayseg.heads.aspp import Aspp, paper_rates
from rayseg.heads.cgnl import Cgnl, HalfSize, require_px, strided_depthwise
from rayseg.heads.nonlocal_net import NonLocal
from rayseg.heads.psp import Ppm
from rayseg.ops.local_attention import local_attention

Arrangement = Literal["gald", "ldga", "parallel"]


class Config(HeadConfig):
    """Which GA, which LD, in which order. Options of what is not built are None, and refused when given.

    `channels`: width, 256 (v2) or 512 (v1). v2: `kernel_size` (odd, 5), `dilation` (6), `key_query`. v1: `ld_residual`
    ("official"), `ld_downsample` of the mask by 8 ("depthwise"). With GA and LD: `arrangement` ("gald").
    """

    name: Literal["gald"] = "gald"
    ga: Literal["none", "psp", "aspp", "nl", "cgnl"] = "aspp"
    ld: Literal["none", "v1", "v2"] = "v2"
    channels: Annotated[int, Field(ge=16, multiple_of=16)] = 256
    arrangement: Arrangement | None = None
    kernel_size: KernelSize | None = None
    dilation: Annotated[int, Field(ge=1)] | None = None
    key_query: Literal["both", "key", "query"] | None = None
    ld_residual: Literal["paper", "official"] | None = None
    ld_downsample: Literal["depthwise", "bilinear", "average"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {field: value for field, value in given.items() if value is not None or field not in _OPTIONAL}
        ga, ld = given.get("ga", "aspp"), given.get("ld", "v2")
        arrangement = given.get("arrangement", "gald")
        defaults = _defaults(ga, ld, arrangement)
        for field in sorted(_OPTIONAL & given.keys() - defaults.keys()):
            built = f"ga = {ga}, ld = {ld}, arrangement = {arrangement}"
            raise UsageError(f"{field} = {given[field]} would be ignored with {built}", f"head.{field}", "drop it")
        return defaults | given


_OPTIONAL = {"arrangement", "kernel_size", "dilation", "key_query", "ld_residual", "ld_downsample"}


def _defaults(ga: str, ld: str, arrangement: str) -> dict[str, Any]:
    """Give every option that this combination reads, with its default."""
    defaults: dict[str, Any] = {"channels": 512 if ld == "v1" else 256}
    if "none" not in (ga, ld):
        defaults["arrangement"] = "gald"
    if ld == "v2":
        defaults |= {"kernel_size": 5, "dilation": 6}
    if ld == "v2" and ga != "none" and arrangement == "gald":
        defaults["key_query"] = "both"
    if ld == "v1":
        defaults |= {"ld_residual": "official", "ld_downsample": "depthwise"}
    return defaults


class MaskedDistribution(nn.Module):
    """LDv1: `M = sigmoid(up(down(x)))` per channel at an eighth of the size; the mask adds to what it weights."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.downsample, self.residual = config.ld_downsample, config.ld_residual
        self.down = None
        if self.downsample == "depthwise":
            self.down = nn.Sequential(*(strided_depthwise(channels, config.norm) for _ in range(3)))

    def forward(self, x_BCHW: Tensor, context_BCHW: Tensor | None = None) -> Tensor:
        """Distribute the context (or, alone, the features themselves): `(1 + M) X_g`, officially `(2 + M) X_g`."""
        g = x_BCHW if context_BCHW is None else context_BCHW
        return g * (self.mask(g) + (2 if self.residual == "official" else 1))

    def mask(self, g_BCHW: Tensor) -> Tensor:
        """Give M (B, C, H, W) for what it will weight; above 1/2 after the depthwise layers, which end in a ReLU."""
        size = g_BCHW.shape[-2:]
        return functional.interpolate(self._shrink(g_BCHW), size=size, mode="bilinear", align_corners=True).sigmoid()

    def _shrink(self, g: Tensor) -> Tensor:
        if self.down is not None:
            return self.down(g)
        size = (-(-g.shape[-2] // 8), -(-g.shape[-1] // 8))
        if self.downsample == "average":
            return functional.adaptive_avg_pool2d(g, size)
        return functional.interpolate(g, size=size, mode="bilinear", align_corners=True)

    def extra_repr(self) -> str:
        return f"downsample={self.downsample}, residual={self.residual}"


class LocalDistribution(nn.Module):
    """LDv2: attention over k x k taps, r pixels apart, on the features, with the context beside them if given."""

    def __init__(self, in_channels: int, context_channels: int, config: Config) -> None:
        super().__init__()
        self.kernel_size, self.dilation = config.kernel_size or 0, config.dilation or 0
        self.source = config.key_query or "both"
        both = in_channels + context_channels
        width = config.channels
        self.query = nn.Conv2d(context_channels if self.source == "key" else both, width, 1, bias=False)
        self.key = nn.Conv2d(context_channels if self.source == "query" else both, width, 1, bias=False)
        self.value = nn.Conv2d(both, width, 1, bias=False)

    def initialise(self) -> None:
        """Start queries and keys so small that inputs of unit power give logits of unit variance."""
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5 * layer.out_channels**-0.25)

    def forward(self, x_BCHW: Tensor, context_BCHW: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, h, w) and (B, context_channels, h, w) to (B, channels, h, w)."""
        x = x_BCHW if context_BCHW is None else torch.cat([context_BCHW, x_BCHW], 1)
        g = x if context_BCHW is None else context_BCHW
        q = self.query(g if self.source == "key" else x)
        k = self.key(g if self.source == "query" else x)
        return local_attention(q, k, self.value(x), kernel_size=self.kernel_size, dilation=self.dilation)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, key_query={self.source}"


class Arranged(nn.Module):
    """GA and LD in order (Figure 6): LD after GA, GA after LD, or both on the input, concatenated; or one alone."""

    def __init__(self, ga: nn.Module | None, ld: nn.Module | None, arrangement: Arrangement | None) -> None:
        super().__init__()
        self.ga, self.ld, self.arrangement = ga, ld, arrangement

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map the features to the distributed context."""
        if self.ga is None or self.ld is None:
            only = self.ld if self.ga is None else self.ga
            return x_BCHW if only is None else only(x_BCHW)
        if self.arrangement == "gald":
            return self.ld(x_BCHW, self.ga(x_BCHW))
        if self.arrangement == "ldga":
            return self.ga(self.ld(x_BCHW))
        return torch.cat([self.ld(x_BCHW), self.ga(x_BCHW)], 1)

    def extra_repr(self) -> str:
        return f"arrangement={self.arrangement}"


def aggregation(config: Config, in_channels: int, *, stride: int, inner: int) -> nn.Module:
    """Build GA from `in_channels` to `config.channels`; attention is done at the latter, a 3x3 leads there."""
    channels, norm = config.channels, config.norm
    if config.ga == "psp":
        return Ppm(in_channels, channels, norm=norm)
    if config.ga == "aspp":
        return Aspp(in_channels, channels, paper_rates(stride), inner=inner, norm=norm)
    block: nn.Module = NonLocal(channels) if config.ga == "nl" else Cgnl(channels)
    if config.ld != "v1":  # which is at half size already
        block = HalfSize(channels, block, norm=norm)
    if in_channels == channels:
        return block
    return nn.Sequential(conv_norm_relu(in_channels, channels, 3, norm=norm), block)


def masked(config: Config, in_channels: int, stride: int) -> nn.Module:
    """Build v1: GA at half resolution and LD, at the reduced width."""
    width, norm = config.channels, config.norm
    ga = None
    if config.ga != "none":
        ga = HalfSize(width, aggregation(config, width, stride=2 * stride, inner=width // 2), norm=norm)
    context = Arranged(ga, MaskedDistribution(width, config), config.arrangement)
    wide = 2 if config.arrangement == "parallel" else 1
    return ContextFuse(in_channels, width, context, norm=norm, wide=wide)


class LocalFuse(nn.Module):
    """v2's layout, also without LD: 3x3 on [GA and LD on X ; X_l]. With neither, the FCN baseline: 3x3 on X_l."""

    def __init__(self, config: Config, in_channels: int, stride: int) -> None:
        super().__init__()
        width, ga, ld = config.channels, None, None
        if config.ga != "none":
            source = width if config.arrangement == "ldga" else in_channels
            ga = aggregation(config, source, stride=stride, inner=width)
        if config.ld == "v2":
            ld = LocalDistribution(in_channels, width if config.arrangement == "gald" else 0, config)
        parts = 3 if config.arrangement == "parallel" else 1 if ga is None and ld is None else 2
        self.context = None if parts == 1 else Arranged(ga, ld, config.arrangement)
        self.local = conv_norm_relu(in_channels, width, norm=config.norm)
        self.fuse = conv_norm_relu(parts * width, width, 3, norm=config.norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        local = self.local(x_BCHW)
        return self.fuse(local if self.context is None else torch.cat([self.context(x_BCHW), local], 1))


class Head(SegmentationHead):
    """GALD on the deepest features."""

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        in_channels, self.stride = spec.channels[-1], spec.strides[-1]
        self.norm = config.norm
        # Three strided 3x3 without padding use up 15 pixels, one uses up 3.
        half_size = config.ga in ("nl", "cgnl") or (config.ld == "v1" and config.ga != "none")
        self.smallest_px = 15 if config.ld_downsample == "depthwise" else HalfSize.SMALLEST_PX if half_size else 1
        self.where = "head.ld = v1" if config.ld == "v1" else f"head.ga = {config.ga}"
        self.layers = (masked if config.ld == "v1" else LocalFuse)(config, in_channels, self.stride)
        self.classify = nn.Conv2d(config.channels, num_classes, 1)

    def stage_auxiliary_head(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the auxiliary head of the authors' code: an FCN's, half as wide as the stage, with a bias."""
        width = in_channels // 2
        return nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            norm_layer(self.norm, width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride.

        Raises:
            UsageError: the image is too small for the strided convolutions of v1, NL or CGNL.
        """
        require_px(features[-1], self.smallest_px, stride=self.stride, where=self.where)
        return {"main": self.classify(self.layers(features[-1]))}

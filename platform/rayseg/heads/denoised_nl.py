"""Denoised NL: "Denoised Non-Local Neural Network for Semantic Segmentation", https://arxiv.org/abs/2110.14200.

Figure 3: X (stride 8), reduced by a 3x3 and a residual block to F at half its size, goes through non-local attention
whose map is denoised (`ops/denoised_attention.py`): Global Rectifying (GR) weakens pairs of different classes, Local
Retention (LR) fills holes from a window. F' = gamma (A'' V) + F (eq. 3), resized, a 3x3, concatenated with X,
classified. Auxiliary losses of weight 1 on the second and third stage (eq. 5). One of GR and LR gives Table II's rows,
neither Table IV's "NL". Without `attention` it is the tables' Baseline: all but the block, whose cost alone Table V
calls added to the Baseline, so F' = F.

Counts with 19 classes: 59 671 866 parameters on resnet50s, 78 663 994 on resnet101s; the block takes 7.83 GFLOPs at
48 x 48 (Table V). `backbone.dilation_style` "uniform" and `multi_grid` (1, 2, 4) are the authors'.

Where the paper and the authors' code (maggiesong7/DenoisedNL) differ, the defaults are the code's, which meets Table V:

* P of GR is the softmax of the third stage's auxiliary prediction; the paper has the logits of a 1x1 on F
  (`rectify_from`, `rectify_by`). Of a softmax, sigmoid(P_i . P_j) is within [0.5, 0.73]: mild, no "binary map".
* The paper concatenates a third part, the pooled X after a 1x1 (`global_context`); its width is not given, that of F
  is taken.
* The paper calls the auxiliary predictions linear; they are 3x3 and 1x1. Softmax is over keys (eq. 4 has it over i).

Queries and keys are not scaled. New convolutions start with a variance of 1 / fan-in. Resizing inside the head is with
align_corners=True as in the code; the auxiliary outputs exist in training only.
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
from rayseg.heads._blocks import KernelSize, Norm, conv_norm_relu, pooled_norm_layer, resized
from rayseg.heads.fcn import Fcn
from rayseg.ops.denoised_attention import denoised_attention


class Config(HeadConfig):
    """Which blocks denoise the attention. Options of what is not built are None, and refused when given.

    `channels`: width of F, a quarter of the backbone's (512 of 2048) when absent; keys have an eighth of it.
    With `attention`: `global_rectifying`, `local_retention` (both true). With `global_rectifying`: `rectify_from`
    ("auxiliary"), `rectify_by` ("probabilities"). With `local_retention`: `kernel_size` of the window (odd, 3).
    """

    name: Literal["denoised_nl"] = "denoised_nl"
    channels: Annotated[int, Field(ge=8)] | None = None
    attention: bool = True
    global_rectifying: bool | None = None
    local_retention: bool | None = None
    rectify_from: Literal["auxiliary", "features"] | None = None
    rectify_by: Literal["probabilities", "logits"] | None = None
    kernel_size: KernelSize | None = None
    global_context: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {field: value for field, value in given.items() if value is not None or field not in _PART_OF}
        for field, (part, default) in _PART_OF.items():
            if given.get(part, part == "attention"):
                given.setdefault(field, default)
            elif field in given:
                off = part if given.get(part) is False else "attention"
                what = f"{field} = {given[field]} would be ignored with {off} = false"
                raise UsageError(what, f"head.{field}", "drop it")
        return given


_PART_OF: dict[str, tuple[str, Any]] = {
    "global_rectifying": ("attention", True),
    "local_retention": ("attention", True),
    "rectify_from": ("global_rectifying", "auxiliary"),
    "rectify_by": ("global_rectifying", "probabilities"),
    "kernel_size": ("local_retention", 3),
}
"""Which part an option is of, and its default. A part that is an option itself comes before those of its own."""


class Reduction(nn.Module):
    """A residual block that halves a map. Its shortcut is a 3x3 with norm and, in the authors' code, a ReLU."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv_norm(channels, norm, stride=2), nn.ReLU(inplace=True), _conv_norm(channels, norm, stride=1)
        )
        self.shortcut = nn.Sequential(_conv_norm(channels, norm, stride=2), nn.ReLU(inplace=True))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2))."""
        return functional.relu(self.residual(x_BCHW) + self.shortcut(x_BCHW))


class DenoisedNonLocal(nn.Module):
    """The block alone: non-local attention, rectified where predictions are given, smoothed where `kernel_size` is."""

    def __init__(self, channels: int, kernel_size: int | None) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, f_BCHW: Tensor, classes_BPHW: Tensor | None = None) -> Tensor:
        """Map F (B, C, H, W), and P of as many pixels, to F'."""
        q, k, v = self.query(f_BCHW), self.key(f_BCHW), self.value(f_BCHW)
        y = denoised_attention(q, k, v, classes=classes_BPHW, kernel_size=self.kernel_size)
        return self.gamma * y + f_BCHW

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"


class Head(SegmentationHead):
    """Denoised NL on the deepest features, with predictions of its own on the two stages before."""

    stage_auxiliary = False

    def __init__(self, config: Config, spec: FeatureSpec, num_classes: int) -> None:
        super().__init__()
        if len(spec.channels) < 3:
            fix = "choose a backbone of three stages, e.g. resnet50s"
            raise UsageError(f"it needs three stages, there are {len(spec.channels)}", "head.name = denoised_nl", fix)
        self.config = config
        second, third, last = spec.channels[-3:]
        width = config.channels or max(last // 4, 8)
        options: dict[str, Any] = {"norm": config.norm, "dropout": config.dropout}
        self.reduce = nn.Sequential(
            conv_norm_relu(last, width, 3, norm=config.norm), Reduction(width, norm=config.norm)
        )
        self.coarse = nn.Conv2d(width, num_classes, 1) if config.rectify_from == "features" else None
        self.attend = DenoisedNonLocal(width, config.kernel_size) if config.attention else None
        self.refine = conv_norm_relu(width, width, 3, norm=config.norm)
        self.pooled = nn.Conv2d(last, width, 1) if config.global_context else None
        parts = last + width * (2 if config.global_context else 1)
        self.classify = Fcn(parts, width, num_classes, **options)
        self.aux1 = Fcn(second, max(second // 8, 1), num_classes, **options)
        self.aux2 = Fcn(third, max(third // 2, 1), num_classes, **options)

    def initialise(self) -> None:
        """Start with the authors' variance, half of He's: unscaled logits grow with its square."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Give `"main"` at the deepest features' stride; in training `"aux1"` and `"aux2"` of the stages before."""
        second, third, x = features[-3:]
        needed = self.training or self.config.rectify_from == "auxiliary"
        aux2 = self.aux2(third) if needed else None
        f = self.reduce(x)
        if self.attend is not None:
            f = self.attend(f, self._classes(f, aux2))
        y = self.refine(resized(f, x, align_corners=True))
        main = self.classify(torch.cat([x, y, *self._context(x)], 1))
        if not self.training or aux2 is None:
            return {"main": main}
        return {"main": main, "aux1": self.aux1(second), "aux2": aux2}

    def loss_weights(self) -> dict[str, float]:
        """Give eq. 5's lambdas."""
        return {"aux1": 1.0, "aux2": 1.0}

    def _classes(self, f: Tensor, aux2: Tensor | None) -> Tensor | None:
        if not self.config.global_rectifying:
            return None
        logits = self.coarse(f) if self.coarse is not None else aux2
        assert logits is not None
        logits = resized(logits.to(torch.promote_types(logits.dtype, torch.float32)), f, align_corners=True)
        return logits.softmax(1) if self.config.rectify_by == "probabilities" else logits

    def _context(self, x: Tensor) -> list[Tensor]:
        if self.pooled is None:
            return []
        return [self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])]

    def extra_repr(self) -> str:
        return f"global_rectifying={self.config.global_rectifying}, rectify_by={self.config.rectify_by}"


def _conv_norm(channels: int, norm: Norm, *, stride: int) -> nn.Sequential:
    # A small crop at stride 32 halves to one pixel.
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, pooled_norm_layer(norm, channels))

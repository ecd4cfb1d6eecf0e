"""Border ground truth from labels, on the labels' device: what DFN's Border Network learns.

"Learning a Discriminative Feature Network for Semantic Segmentation", https://arxiv.org/abs/1804.09337, section 3.2,
takes borders from the labels by an edge operator such as Canny's; the author's code (TorchSeg) runs Canny's and
thickens what it finds by a square of 7 pixels.

Deviations. By default a pixel is on a border when its right or its lower neighbour has another class: exact, and
independent of the classes' numbers, while Canny suppresses edges by the difference of two class numbers. On the 101
label maps of CamVid's validation split the two, thickened, share 0.92 of their union. `edges="canny"` is the
literal form. The author's code turns ignored pixels into class 0 first, which puts no border between them and class
0 but one between them and any other class; here ignored pixels have no border and are ignored, unless
`legacy_ignore`. It also takes borders of the whole image; here they are of the crop, so next to the crop's edge a
border that lies outside it is not thickened into it, and with `legacy_ignore` what pads the crop counts as class 0.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rayseg.errors import UsageError

Edges = Literal["change", "canny"]
_CANNY = 5  # both thresholds; with a 7 x 7 Sobel every step between two classes is above it


class BorderTarget(NamedTuple):
    """Where borders are, and where the answer counts: two (B, H, W) bool tensors."""

    border: Tensor
    valid: Tensor


def border_targets(
    labels_BHW: Tensor, *, ignore_index: int, edges: Edges = "change", width: int = 7, legacy_ignore: bool = False
) -> BorderTarget:
    """Find the borders between classes, `width` pixels thick.

    Args:
        labels_BHW: integers, classes or `ignore_index`.
        edges: "change" compares neighbours; "canny" runs OpenCV on the CPU, for labels below 256.
        width: odd; side in pixels of the square that thickens the borders.
        legacy_ignore: count ignored pixels as class 0.

    Raises:
        UsageError: `width` is even, or a label is too large for Canny.
    """
    if width < 1 or width % 2 == 0:
        raise UsageError(f"width = {width} has no centre", "border_targets", "choose 1, 3, 5 or 7")
    valid = labels_BHW != ignore_index
    if legacy_ignore or edges == "canny":
        labels_BHW = labels_BHW.masked_fill(~valid, 0)
    if legacy_ignore:
        valid = torch.ones_like(valid)
    thin = _canny(labels_BHW, valid) if edges == "canny" else label_changes(labels_BHW, valid)
    return BorderTarget(dilate(thin, width), valid)


def label_changes(labels_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Mark each valid pixel whose right or lower neighbour is valid and of another class."""
    found = torch.zeros_like(valid_BHW)
    for axis in (1, 2):
        size = labels_BHW.shape[axis] - 1
        label, other = (labels_BHW.narrow(axis, start, size) for start in (0, 1))
        valid, other_valid = (valid_BHW.narrow(axis, start, size) for start in (0, 1))
        found.narrow(axis, 0, size).logical_or_((label != other) & valid & other_valid)
    return found


def dilate(mask_BHW: Tensor, width: int) -> Tensor:
    """Thicken a bool mask by a square of `width` (odd) pixels.

    Shifts of bytes whose reach doubles: three per axis for 7, and no floats.
    """
    radius = width // 2
    grown = functional.pad(mask_BHW, (radius, radius, radius, radius))
    for axis in (-2, -1):
        reach = 1
        while reach < width:
            step = min(reach, width - reach)
            size = grown.shape[axis] - step
            grown = grown.narrow(axis, 0, size) | grown.narrow(axis, step, size)
            reach += step
    return grown


def _canny(labels_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    maps = labels_BHW.cpu().numpy()
    if maps.size and maps.max() > 255:
        raise UsageError(f"label {maps.max()} does not fit a byte", "edges = canny", "set edges to change")
    found = [cv2.Canny(labels.astype(np.uint8), _CANNY, _CANNY, apertureSize=7) for labels in maps]
    thin = torch.from_numpy(np.stack(found) > 0).to(labels_BHW.device)
    return thin & ~dilate(~valid_BHW, 3)  # a step to an ignored pixel is seen up to one pixel off

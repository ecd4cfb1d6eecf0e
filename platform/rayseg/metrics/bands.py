"""Boundary IoU of one image: IoU of the bands that lie inside each class's region, along its contour.

"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (Cheng et al. 2021,
https://arxiv.org/abs/2103.16562), for regions of a class instead of objects: pixels are added up over the set, as mIoU
does it.

A class's band is what of its region lies within d of a pixel that is not the class's: d = 2 % of the diagonal, rounded,
at least 1, counted as steps in eight directions, as the authors' code erodes a region d times by 3 x 3. As there, the
image's border is a contour: what lies beyond it is no class's. Ignored pixels are no class's either, in truth and
prediction alike, and are in no band; so along them a class has a band in both, as it has a boundary for the F-score.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rayseg.metrics import masks

SHARE = 0.02
"""Of the image's diagonal."""


class Overlap(NamedTuple):
    """Pixels (C,) in the class's bands of both masks, and in either."""

    hits: NDArray[np.int64]
    union: NDArray[np.int64]


def band_px(shape: tuple[int, ...]) -> int:
    """Give how wide the band is in an image of `shape` (height, width)."""
    return max(1, round(SHARE * math.hypot(*shape)))


def overlap(predicted: masks.Whole, truth: masks.Whole, num_classes: int) -> Overlap:
    """Overlap the bands of two masks (H,W) of the classes and the label C, which has none."""
    in_truth, in_prediction = (band(mask, band_px(truth.shape), none=num_classes) for mask in (truth, predicted))
    hits = _counted(truth[in_truth & in_prediction & (truth == predicted)], num_classes)
    either = _counted(truth[in_truth], num_classes) + _counted(predicted[in_prediction], num_classes)
    return Overlap(hits, either - hits)


def band(mask: masks.Whole, width: int, *, none: int) -> NDArray[np.bool_]:
    """Mark the pixels within `width` of another label, or of the image's border; `none` is the label beyond it.

    One minimum and one maximum over a square serve all classes: where they differ, the square holds two labels.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=none)
    return (cv2.dilate(framed, square) != cv2.erode(framed, square))[1:-1, 1:-1]


def _counted(labels: masks.Whole, num_classes: int) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=num_classes + 1)[:num_classes]

"""Boundary scores as their papers write them: each class alone, each mask whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rayseg.metrics import boundary

Mask = NDArray[Any]


def f1(pred: Mask, truth: Mask, *, num_classes: int, thresholds: Sequence[float], ignored: int = 255) -> Mask:
    """Compute F-scores (T,C) by two distance transforms of the whole image for each class."""
    radii = [t if t >= 1 else math.ceil(t * math.hypot(*truth.shape)) for t in thresholds]
    seen, scores = truth != ignored, np.empty((len(radii), num_classes))
    for label in range(num_classes):
        found, wanted = boundary((pred == label) & seen), boundary((truth == label) & seen)
        if not found.any() or not wanted.any():
            scores[:, label] = 0.0 if found.any() or wanted.any() else 1.0
            continue
        to_wanted, to_found = distance_to(wanted)[found], distance_to(found)[wanted]
        for i, radius in enumerate(radii):
            p, r = (to_wanted <= radius * radius).mean(), (to_found <= radius * radius).mean()
            scores[i, label] = 2 * p * r / (p + r) if p + r else 0.0
    return scores


def f1_by_dilation(
    pred: Mask, truth: Mask, *, num_classes: int, thresholds: Sequence[float], ignored: int = 255
) -> Mask:
    """Compute F-scores (T,C) by dilating each boundary with a disk, for each class and threshold."""
    radii = [t if t >= 1 else math.ceil(t * math.hypot(*truth.shape)) for t in thresholds]
    seen, scores = truth != ignored, np.empty((len(radii), num_classes))
    for label in range(num_classes):
        found, wanted = boundary((pred == label) & seen), boundary((truth == label) & seen)
        for i, radius in enumerate(radii):
            p, r = _covered(found, wanted, radius), _covered(wanted, found, radius)
            either = found.any() or wanted.any()
            scores[i, label] = (2 * p * r / (p + r) if p + r else 0.0) if either else 1.0
    return scores


def _covered(these: Mask, those: Mask, radius: float) -> float:
    reach = math.floor(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disk = (y * y + x * x <= radius * radius).astype(np.uint8)
    return float(cv2.dilate(those.astype(np.uint8), disk)[these].mean()) if these.any() else 0.0


def distance_to(edge: Mask) -> Mask:
    """Give every pixel's squared distance to the nearest edge pixel: a whole number, so comparing it is exact."""
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(distance.astype(np.float64) ** 2)


def band(region: Mask, width: int) -> Mask:
    """Take from a region what is left of it after so many erosions by 3 x 3; nothing lies beyond the image."""
    left = np.pad(region, 1)
    for _ in range(width):
        inner = np.pad(left, 1)
        left = np.logical_and.reduce([np.roll(inner, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])[
            1:-1, 1:-1
        ]
    return region & ~left[1:-1, 1:-1]

"""The boundary F-score of one image: how much of two contours lies within a few pixels of the other.

GALD's Table V has it ("Global Aggregation then Local Distribution for Scene Parsing",
https://arxiv.org/abs/2107.13154), by the protocol of GSCNN (https://arxiv.org/abs/1907.05740), written anew here.

The squared distances are whole numbers, so a match is exact. A full distance transform for each class would look at
every pixel of the image; only contour pixels are asked, and none is asked for more than the largest radius: each
contour pixel writes its squared vertical distances into its column, and each pixel that asks reads one row of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.metrics import masks

Flat = NDArray[np.intp]
"""Pixels by their place in the flattened image."""


def boundary_f1(
    pred: ArrayLike, target: ArrayLike, *, num_classes: int, ignore_index: int = 255, threshold: float | Sequence[float]
) -> NDArray[np.float64]:
    """Compute one image's boundary F-score per class, as GSCNN's protocol does; GALD's Table V averages it over images.

    Within `threshold` of each other two boundary pixels match: in pixels from 1 on, below 1 as a share of the
    diagonal, rounded up. The papers' 0.00088 is 3 px at 1024x2048; their scripts default to 0.0005, 2 px.
    Where the image has no boundary of a class in truth nor prediction its score is 1, and where only one has it 0:
    report a mean over images where the class occurs beside the protocol's mean over all.

    Args:
        pred: (H,W) whole numbers, `target` alike; both count as "not the class" where target is `ignore_index`, so a
            class has a boundary there, the same in both. The image's own border is none.
        threshold: one or several; all share the distances.

    Returns:
        (C,) float64 in 0..1, or (T,C) for T thresholds.

    Raises:
        ValueError: the shapes differ or are not (H,W), the numbers are not whole, a prediction is not in 0..C-1,
            or a threshold is not positive.
        DataError: a target is neither in 0..C-1 nor the ignored label.
    """
    predicted, truth = masks.covered(pred, target, num_classes, ignore_index)
    several = isinstance(threshold, Sequence)
    radii = [radius_px(t, truth.shape) for t in (threshold if isinstance(threshold, Sequence) else [threshold])]
    scores = match(predicted, truth, num_classes, radii).f1
    return scores if several else scores[0]


def radius_px(threshold: float, shape: tuple[int, ...]) -> float:
    """Turn a threshold into pixels for an image of `shape` (height, width)."""
    if not threshold > 0:
        raise ValueError(f"threshold = {threshold}: give pixels from 1 on, or a share of the diagonal above 0")
    return threshold if threshold >= 1 else math.ceil(threshold * math.hypot(*shape))


def boundary(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels that differ from their right, lower or lower-right neighbour (H,W)."""
    edge = np.zeros_like(region)
    edge[:, :-1] |= region[:, :-1] != region[:, 1:]
    edge[:-1] |= region[:-1] != region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] != region[1:, 1:]
    return edge


class Match(NamedTuple):
    """F-scores (T,C) of one image, and which classes have a boundary in its truth or prediction (C,)."""

    f1: NDArray[np.float64]
    present: NDArray[np.bool_]


def match(predicted: masks.Whole, truth: masks.Whole, num_classes: int, radii: Sequence[float]) -> Match:
    """Match the contours of two masks (H,W) of the classes and the label C, which has no contour of its own."""
    scores, present = np.ones((len(radii), num_classes)), np.zeros(num_classes, np.bool_)
    of_prediction, of_truth = Contours(predicted), Contours(truth)
    for label in sorted((of_prediction.labels | of_truth.labels) - {num_classes}):
        found, wanted = of_prediction.of(label), of_truth.of(label)
        present[label] = True
        scores[:, label] = _f1(found, wanted, truth.shape, radii) if found.size and wanted.size else 0.0
    return Match(scores, present)


class Contours:
    """The contours of every class of a mask: `boundary(mask == label)` from the few pixels where labels change."""

    def __init__(self, mask: masks.Whole) -> None:
        width = mask.shape[1]
        edged = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
        own, right, below, across = edged[:-1, :-1], edged[:-1, 1:], edged[1:, :-1], edged[1:, 1:]
        self._at = np.flatnonzero((own != right) | (own != below) | (own != across))
        corner = self._at + self._at // width  # in the edged mask, whose rows are one longer
        flat = edged.ravel()
        self._corners = np.stack([flat[corner + step] for step in (0, 1, width + 1, width + 2)])
        self.labels = set(np.unique(self._corners).tolist())

    def of(self, label: int) -> Flat:
        """Give one class's contour: the pixels whose square of four is neither all of the class nor without it."""
        inside = self._corners == label
        return self._at[inside.any(axis=0) & ~inside.all(axis=0)]


def _f1(found: Flat, wanted: Flat, shape: tuple[int, ...], radii: Sequence[float]) -> list[float]:
    """Match two contours within each radius: the harmonic mean of the matched shares of both."""
    reach = math.floor(max(radii))
    to_wanted, to_found = nearest(found, wanted, shape, reach), nearest(wanted, found, shape, reach)
    shares = [((to_wanted <= radius * radius).mean(), (to_found <= radius * radius).mean()) for radius in radii]
    return [float(2 * p * r / (p + r)) if p + r else 0.0 for p, r in shares]


def nearest(asking: Flat, among: Flat, shape: tuple[int, ...], reach: int) -> NDArray[np.int64]:
    """Give the squared distance of every pixel of `asking` to the nearest of `among`: exact up to `reach`.

    What is farther away than `reach` has some number above its square.
    """
    rows, columns = min(reach, shape[0] - 1), min(reach, shape[1] - 1)
    stride = shape[1] + 2 * columns

    def placed(at: Flat) -> Flat:
        return at + at // shape[1] * (2 * columns) + rows * stride + columns

    none, kind = (2**16 - 1, np.uint16) if reach < 255 else (2**62, np.int64)  # farther than any radius
    vertical: NDArray[np.integer] = np.full((shape[0] + 2 * rows) * stride, none, kind)
    targets, places = placed(among), placed(asking)
    for away in range(rows, -1, -1):  # the nearest is written last
        vertical[targets - away * stride] = vertical[targets + away * stride] = away * away
    best = vertical[places].astype(np.int64)
    for away in range(1, columns + 1):
        for side in (places - away, places + away):
            np.minimum(best, vertical[side] + np.int64(away * away), out=best)
    return best

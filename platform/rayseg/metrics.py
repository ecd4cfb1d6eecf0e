"""Metrics: IoU from a confusion matrix, and the boundary F-score of GALD's Table V. Sums that merge by adding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.errors import DataError


class ConfusionMatrix:
    """Counts of pixels, `counts[truth, prediction]` int64; ignored pixels are in none.

    The counts of several ranks or batches add up: `merge`, or a sum over `counts`.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: ArrayLike, target: ArrayLike) -> None:
        """Count the pixels of a mask or a batch of masks, arrays of whole numbers of equal shape.

        Raises:
            ValueError: the shapes differ, the numbers are not whole, or a prediction is not in 0..C-1.
            DataError: a target is neither in 0..C-1 nor the ignored label.
        """
        predicted, truth = _whole(pred, "pred"), _whole(target, "target")
        if predicted.shape != truth.shape:
            raise ValueError(f"pred {predicted.shape} and target {truth.shape} differ in shape")
        counted = truth != self.ignore_index
        truth, predicted = truth[counted], predicted[counted]
        _check(truth, predicted, self.num_classes, self.ignore_index)
        cells = truth.astype(np.int64) * self.num_classes + predicted
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: Self) -> None:
        """Add the other's counts, as if its masks had been counted here."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(f"{other.num_classes} classes do not merge into {self.num_classes}")
        self.counts += other.counts

    def iou(self) -> NDArray[np.float64]:
        """Give intersection over union (C,); NaN for a class that occurs in neither truth nor prediction."""
        both = np.diag(self.counts)
        return _ratio(both, self.counts.sum(axis=0) + self.counts.sum(axis=1) - both)

    def recall(self) -> NDArray[np.float64]:
        """Give the share of every class's pixels that was found (C,); NaN for a class that truth has not."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=1))

    def miou(self) -> float:
        """Give the mean IoU over the classes that occur in truth or prediction; NaN before the first pixel."""
        return _mean(self.iou())

    def pixel_accuracy(self) -> float:
        """Give the share of pixels predicted right."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def mean_accuracy(self) -> float:
        """Give the mean recall over the classes that truth has."""
        return _mean(self.recall())

    def frequency_weighted_iou(self) -> float:
        """Give the IoU averaged by each class's share of the truth."""
        share = _ratio(self.counts.sum(axis=1), self.counts.sum())
        return float(np.nansum(share * self.iou())) if self.counts.any() else math.nan


def boundary_f1(
    pred: ArrayLike, target: ArrayLike, *, num_classes: int, ignore_index: int = 255, threshold: float | Sequence[float]
) -> NDArray[np.float64]:
    """Compute one image's boundary F-score per class, as GSCNN's protocol does; GALD's Table V averages it over images.

    Within `threshold` of each other two boundary pixels match: in pixels from 1 on, below 1 as a share of the
    diagonal, rounded up. The papers' 0.00088 is 3 px at 1024x2048; their scripts default to 0.0005, 2 px.
    Where the image has no boundary of a class in truth nor prediction its score is 1, and where only one has it 0:
    report a mean over images where the class occurs beside the protocol's mean over all.

    Args:
        pred: (H,W) whole numbers, `target` alike; both count as "not the class" where target is `ignore_index`.
        threshold: one or several; all share one distance transform.

    Returns:
        (C,) float64 in 0..1, or (T,C) for T thresholds.

    Raises:
        ValueError: the shapes differ or are not (H,W), the numbers are not whole, a prediction is not in 0..C-1,
            or a threshold is not positive.
        DataError: a target is neither in 0..C-1 nor the ignored label.
    """
    predicted, truth = _whole(pred, "pred"), _whole(target, "target")
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"pred {predicted.shape} and target {truth.shape} must both be (H,W)")
    seen = truth != ignore_index
    _check(truth[seen], predicted[seen], num_classes, ignore_index)
    several = isinstance(threshold, Sequence)
    radii = [radius_px(t, truth.shape) for t in (threshold if isinstance(threshold, Sequence) else [threshold])]
    scores = [
        _f1(boundary((predicted == label) & seen), boundary((truth == label) & seen), radii)
        for label in range(num_classes)
    ]
    return np.array(scores).T if several else np.array(scores)[:, 0]


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


def _f1(found: NDArray[np.bool_], wanted: NDArray[np.bool_], radii: Sequence[float]) -> list[float]:
    """Match two boundaries within each radius: the harmonic mean of the matched shares of both."""
    if not found.any() or not wanted.any():
        return [0.0 if found.any() or wanted.any() else 1.0] * len(radii)
    to_wanted, to_found = _distance_to(wanted)[found], _distance_to(found)[wanted]
    shares = [((to_wanted <= radius * radius).mean(), (to_found <= radius * radius).mean()) for radius in radii]
    return [float(2 * p * r / (p + r)) if p + r else 0.0 for p, r in shares]


def _distance_to(edge: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give every pixel's squared distance to the nearest edge pixel: a whole number, so comparing it is exact."""
    plane = (~edge).astype(np.uint8)
    distance = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(distance.astype(np.float64) ** 2)


def _whole(values: ArrayLike, name: str) -> NDArray[np.integer]:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype}: give whole numbers, such as logits.argmax(1)")
    return array


def _check(truth: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int, ignore_index: int) -> None:
    for name, values in (("prediction", predicted), ("target", truth)):
        if not values.size or (values.min() >= 0 and values.max() < num_classes):
            continue
        wrong = sorted({int(v) for v in np.unique(values) if not 0 <= v < num_classes})[:5]
        if name == "prediction":
            raise ValueError(f"predictions {wrong} are not classes 0..{num_classes - 1}")
        valid = f"0..{num_classes - 1} and {ignore_index}"
        raise DataError(
            f"labels {wrong} in the target", "metrics", f"the labels are {valid}: mend the masks or the card"
        )


def _ratio(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan

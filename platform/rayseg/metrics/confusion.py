"""The confusion matrix, what follows from it, and the same pixels counted for each image."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.metrics import masks

Counts = NDArray[np.int64]


def count(pred: ArrayLike, target: ArrayLike, *, num_classes: int, ignore_index: int = 255) -> Counts:
    """Count the pixels of a mask or a batch of masks: `counts[truth, prediction]`, ignored pixels in none.

    Raises:
        ValueError: the shapes differ, the numbers are not whole, or a prediction is not in 0..C-1.
        DataError: a target is neither in 0..C-1 nor the ignored label.
    """
    predicted, truth = masks.pair(pred, target)
    counted = truth != ignore_index
    truth, predicted = truth[counted], predicted[counted]
    masks.check(truth, predicted, num_classes, ignore_index)
    cells = truth.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


class ConfusionMatrix:
    """Counts of pixels, `counts[truth, prediction]` int64; ignored pixels are in none.

    The counts of several ranks or batches add up: `merge`, or a sum over `counts`.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: ArrayLike, target: ArrayLike) -> Counts:
        """Count the pixels of a mask or a batch of masks, and give these counts alone; raises as `count` does."""
        new = count(pred, target, num_classes=self.num_classes, ignore_index=self.ignore_index)
        self.counts += new
        return new

    def merge(self, other: Self) -> None:
        """Add the other's counts, as if its masks had been counted here."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(f"{other.num_classes} classes do not merge into {self.num_classes}")
        self.counts += other.counts

    def iou(self) -> NDArray[np.float64]:
        """Give intersection over union (C,); NaN for a class that occurs in neither truth nor prediction."""
        both = np.diag(self.counts)
        return ratio(both, self.counts.sum(axis=0) + self.counts.sum(axis=1) - both)

    def recall(self) -> NDArray[np.float64]:
        """Give the share of every class's pixels that was found (C,); NaN for a class that truth has not."""
        return ratio(np.diag(self.counts), self.counts.sum(axis=1))

    def miou(self) -> float:
        """Give the mean IoU over the classes that occur in truth or prediction; NaN before the first pixel."""
        return mean(self.iou())

    def pixel_accuracy(self) -> float:
        """Give the share of pixels predicted right."""
        return float(ratio(np.trace(self.counts), self.counts.sum()))

    def mean_accuracy(self) -> float:
        """Give the mean recall over the classes that truth has."""
        return mean(self.recall())

    def frequency_weighted_iou(self) -> float:
        """Give the IoU averaged by each class's share of the truth."""
        share = ratio(self.counts.sum(axis=1), self.counts.sum())
        return float(np.nansum(share * self.iou())) if self.counts.any() else math.nan


class PerImage(NamedTuple):
    """Pixels of each image and class (N,C): found and right, in the truth, and predicted.

    A rank fills its images' rows and leaves the others zero, so that the rows of all ranks add up. The sums over
    images are the set's: the confusion matrix's diagonal, rows and columns.
    """

    hits: NDArray[np.int32]
    truth: NDArray[np.int32]
    found: NDArray[np.int32]

    @classmethod
    def empty(cls, images: int, num_classes: int) -> Self:
        """Make room for so many images."""
        return cls(*(np.zeros((images, num_classes), np.int32) for _ in range(3)))

    def note(self, position: int, counts: Counts) -> None:
        """Take in one image's own confusion matrix."""
        self.hits[position], self.truth[position] = np.diag(counts), counts.sum(axis=1)
        self.found[position] = counts.sum(axis=0)

    def iou(self) -> NDArray[np.float64]:
        """Give each image's IoU of each class (N,C); NaN where the image has none in truth nor prediction."""
        return ratio(self.hits, self.truth + self.found - self.hits)


def ratio(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Divide; NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def mean(values: NDArray[np.float64]) -> float:
    """Average what is defined; NaN where nothing is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan

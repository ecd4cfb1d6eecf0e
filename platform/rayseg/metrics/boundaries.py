"""Boundary scores of a set: sums of F-scores and of bands over images, which batches and ranks add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.metrics import masks
from rayseg.metrics.bands import overlap
from rayseg.metrics.confusion import mean, ratio
from rayseg.metrics.contours import match, radius_px

PAPERS = (0.00088, 0.001875, 0.00375, 0.005)
"""GALD's Table V: 3, 5, 9 and 12 px at 1024x2048."""
GRAIN = 2.0**36
"""A score is kept to so many parts: then a sum of up to 100 000 has no rounding, and is the same in any order."""


def threshold_name(threshold: float) -> str:
    """Name a threshold by its radius in the papers' images of 1024x2048: `3px`."""
    return f"{radius_px(threshold, (1024, 2048)):g}px"


class ImageBoundaries(NamedTuple):
    """One image's: F-scores (T,C), classes with a boundary (C,), pixels in both bands and in either (C,)."""

    f1: NDArray[np.float64]
    present: NDArray[np.bool_]
    hits: NDArray[np.int64]
    union: NDArray[np.int64]


class BoundaryScores:
    """Sums over images: F-scores `sums` (T,C), in how many images a class has a boundary `present` (C,), bands (C,).

    `thresholds_px` are in pixels from 1 on, shares of the diagonal below; `images` counts all images.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, thresholds_px: Sequence[float] = PAPERS) -> None:
        self.num_classes, self.ignore_index, self.thresholds_px = num_classes, ignore_index, tuple(thresholds_px)
        self.sums = np.zeros((len(self.thresholds_px), num_classes))
        self.present, self.hits, self.union = (np.zeros(num_classes, np.int64) for _ in range(3))
        self.images = 0

    def of(self, pred: ArrayLike, target: ArrayLike) -> ImageBoundaries:
        """Score one image's masks (H,W), and change nothing: threads may share it. Raises as `boundary_f1` does."""
        predicted, truth = masks.covered(pred, target, self.num_classes, self.ignore_index)
        radii = [radius_px(threshold, truth.shape) for threshold in self.thresholds_px]
        return ImageBoundaries(
            *match(predicted, truth, self.num_classes, radii), *overlap(predicted, truth, self.num_classes)
        )

    def add(self, image: ImageBoundaries) -> None:
        """Take in one image's scores."""
        self.sums += np.rint(image.f1 * GRAIN) / GRAIN
        self.present += image.present
        self.hits += image.hits
        self.union += image.union
        self.images += 1

    def update(self, pred: ArrayLike, target: ArrayLike) -> None:
        """Score one image's masks (H,W) and take them in."""
        self.add(self.of(pred, target))

    def merge(self, other: Self) -> None:
        """Add the other's sums, as if its images had been scored here."""
        if (other.num_classes, other.thresholds_px) != (self.num_classes, self.thresholds_px):
            raise ValueError("boundary scores of other classes or thresholds do not merge")
        self.sums += other.sums
        self.present += other.present
        self.hits += other.hits
        self.union += other.union
        self.images += other.images

    def per_class(self) -> NDArray[np.float64]:
        """Give the protocol's F-scores (T,C): over all images, those where the class is in neither mask with 1."""
        return ratio(self.sums, np.full_like(self.sums, self.images))

    def per_class_present(self) -> NDArray[np.float64]:
        """Give F-scores (T,C) over the images where the class has a boundary in either mask; NaN where none has."""
        present = np.broadcast_to(self.present, self.sums.shape)
        return ratio(self.sums - (self.images - present), present)

    def mean(self) -> NDArray[np.float64]:
        """Give the protocol's score (T,): the mean over all classes."""
        return self.per_class().mean(axis=1)

    def mean_present(self) -> NDArray[np.float64]:
        """Give the mean (T,) over the classes that have a boundary anywhere, each over its own images."""
        return np.array([mean(scores) for scores in self.per_class_present()])

    def iou_per_class(self) -> NDArray[np.float64]:
        """Give boundary IoU (C,); NaN for a class that occurs in neither truth nor prediction."""
        return ratio(self.hits, self.union)

    def iou(self) -> float:
        """Give the mean boundary IoU over the classes that occur."""
        return mean(self.iou_per_class())

"""Means and variances of features by class, in a running form: batches come one by one, and forms merge.

Chan, Golub and LeVeque's update: distances to a mean are added up, never squares, whose difference has no digits left
where the mean is large beside the spread. All in float64.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ClassMoments:
    """For C classes and D channels: `pixels` (C,), `means` (C, D), `squares` (C, D) of the distances to the means."""

    def __init__(self, num_classes: int, channels: int) -> None:
        self.pixels = np.zeros(num_classes)
        self.means = np.zeros((num_classes, channels))
        self.squares = np.zeros((num_classes, channels))

    def update(self, features_ND: NDArray[Any], labels_N: NDArray[Any]) -> None:
        """Take in N pixels; labels that are no class count for nothing."""
        known = labels_N < len(self.pixels)
        x, labels = features_ND[known].astype(np.float64), labels_N[known]
        batch = type(self)(len(self.pixels), self.means.shape[1])
        for label in np.unique(labels):
            of_class = x[labels == label]
            batch.pixels[label] = len(of_class)
            batch.means[label] = of_class.mean(0)
            batch.squares[label] = ((of_class - batch.means[label]) ** 2).sum(0)
        self.merge(batch)

    def merge(self, other: Self) -> None:
        """Take in what another form has counted."""
        pixels = self.pixels + other.pixels
        share = np.divide(other.pixels, pixels, out=np.zeros_like(pixels), where=pixels > 0)[:, None]
        apart = other.means - self.means
        self.squares += other.squares + apart**2 * (self.pixels[:, None] * share)
        self.means += apart * share
        self.pixels = pixels

    @property
    def occurring(self) -> NDArray[np.bool_]:
        """Which classes have been seen (C,)."""
        return self.pixels > 0

    def variance(self) -> Floats:
        """Give eq. 8's V (D,): the variance (over C, not C - 1) of the occurring classes' means, each counted once."""
        return np.asarray(self.means[self.occurring].var(axis=0))

    def share(self) -> Floats:
        """Give what part of each channel's variance over all pixels is that of the classes' means (D,), 0 to 1.

        Classes count by their pixels (the correlation ratio): unlike `variance` it does not change with a channel's
        scale. A channel that never varies has 0.
        """
        grand = (self.pixels[:, None] * self.means).sum(0) / max(self.pixels.sum(), 1)
        between = (self.pixels[:, None] * (self.means - grand) ** 2).sum(0)
        whole = between + self.squares.sum(0)
        return np.divide(between, whole, out=np.zeros_like(whole), where=whole > 0)

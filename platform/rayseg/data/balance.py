"""Class-uniform crops: the class that a sample's crop is placed on, so that all classes are drawn alike often.

Every epoch still uses each sample once. What is drawn is where its crop lies: a class among those that the sample has,
by weights that even the classes out over the split, then a pixel of that class, then a crop that contains it. Taking
instead as many images of each class as of any other (Zhu et al., "Improving Semantic Segmentation via Video Propagation
and Label Relaxation", https://arxiv.org/abs/1812.01593) would repeat some samples and leave others out.

The weights come from the index's counts alone. With P(c | sample) = w_c / (sum of w over the sample's classes) they are
scaled until each class is expected equally often; one that too few samples have is drawn nearly whenever it is there,
and the others share the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayseg.data.index import Ints

Floats = NDArray[np.float64]
_ROUNDS, _ROWS = 60, 65536
_RANGE = 1e6
"""Between the largest weight and the smallest: a class that is in every sample still has a chance beside a rare one."""


class Balance:
    """Draws the class that a sample's crop is placed on. `class_pixels` is the index's `(n, C+1)`."""

    def __init__(self, class_pixels: Ints) -> None:
        self.counts = class_pixels[:, :-1]
        self.weights = weights(self.counts > 0)

    def chances(self, position: int) -> Floats:
        """Give each class's chance in a sample (C,); all 0 where nothing is labelled."""
        found = (self.counts[position] > 0) * self.weights
        total = found.sum()
        return np.asarray(found / total if total else found, np.float64)

    def draw(self, position: int, rng: np.random.Generator) -> int | None:
        """Draw one of the sample's classes; None where nothing in it is labelled."""
        ends = self.chances(position).cumsum()
        return int(np.searchsorted(ends, rng.random() * ends[-1], "right")) if ends[-1] else None


def weights(present: NDArray[np.bool_]) -> Floats:
    """Scale weights (C,) until each class of `present` (n, C) is expected alike often, or as often as it can be."""
    known = present.any(0)
    wanted = int(present.any(1).sum()) / max(1, int(known.sum()))
    found = np.array(known, np.float64)
    for _ in range(_ROUNDS if known.any() else 0):
        found[known] *= wanted / (found * _shares(present, found))[known]
        found[known] = np.maximum(found[known] / found.max(), 1 / _RANGE)
    return found


def _shares(present: NDArray[np.bool_], found: Floats) -> Floats:
    """Sum over the samples what a weight of 1 gives a class, some rows at a time: a million rows of 150 are 1.2 GB."""
    total = np.zeros(present.shape[1])
    for first in range(0, len(present), _ROWS):
        rows = present[first : first + _ROWS].astype(np.float64)
        sums = rows @ found
        total += np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0) @ rows
    return total

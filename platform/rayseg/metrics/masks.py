"""Masks that metrics take: whole numbers, of one shape, of classes that there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.errors import DataError

Whole = NDArray[np.integer]


def pair(pred: ArrayLike, target: ArrayLike) -> tuple[Whole, Whole]:
    """Give prediction and truth as arrays of whole numbers.

    Raises:
        ValueError: the shapes differ, or the numbers are not whole.
    """
    predicted, truth = _whole(pred, "pred"), _whole(target, "target")
    if predicted.shape != truth.shape:
        raise ValueError(f"pred {predicted.shape} and target {truth.shape} differ in shape")
    return predicted, truth


def check(truth: Whole, predicted: Whole, num_classes: int, ignore_index: int) -> None:
    """Check the labels of pixels that count.

    Raises:
        ValueError: a prediction is not in 0..C-1.
        DataError: a target is not.
    """
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


def covered(pred: ArrayLike, target: ArrayLike, num_classes: int, ignore_index: int) -> tuple[Whole, Whole]:
    """Give two masks (H,W) in which pixels that do not count have the label C, which is no class's.

    A class then ends where they begin, in prediction and truth alike.

    Raises:
        ValueError: they are not of one shape (H,W), the numbers are not whole, a prediction is not in 0..C-1.
        DataError: a target is neither in 0..C-1 nor the ignored label.
    """
    predicted, truth = pair(pred, target)
    if truth.ndim != 2:
        raise ValueError(f"pred {predicted.shape} and target {truth.shape} must both be (H,W)")
    counts = truth != ignore_index
    check(truth[counts], predicted[counts], num_classes, ignore_index)
    kind = np.uint8 if num_classes < 256 else np.uint16
    none = np.asarray(num_classes, kind)
    return np.where(counts, predicted.astype(kind), none), np.where(counts, truth.astype(kind), none)


def _whole(values: ArrayLike, name: str) -> Whole:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype}: give whole numbers, such as logits.argmax(1)")
    return array

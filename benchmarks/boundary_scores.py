"""Measure boundary F-scores and boundary IoU of one image: as the papers' scripts compute them, and rayseg's."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import rayseg
from measure import arguments, publish
from naive.boundary import band, f1, f1_by_dilation
from rayseg.config import ViewConfig
from rayseg.data import scenes
from rayseg.metrics import PAPERS, BoundaryScores, boundary_f1
from rayseg.train import evaluate

CLASSES, IGNORED = 11, 11
ABOUT = """One image of a drawn scene, 11 classes, the four thresholds of GALD's Table V. The prediction is the truth
with its edges moved by some pixels and spots of other classes thrown in. All forms in turn, on one thread.

* `rayseg`: F-scores and boundary IoU as an evaluation takes them (`metrics/boundaries.py`); what the others are over.
* `F-scores, rayseg`: distances for boundary pixels alone, up to the largest radius (`metrics/contours.py`).
* `F-scores, distance transforms`: one of the whole image for each class and mask, for all thresholds.
* `F-scores, disks`: each class's boundary widened by a disk for each threshold. All three agree in every bit.
* `boundary IoU, erosions`: each class's region eroded step by step by 3 x 3; rayseg takes one minimum and one maximum
  for all classes (`metrics/bands.py`).
* `gald, resnet18`: predicting the image, one view, at stride 8 or 16, in float32: what scoring is added to. Measured at
  the smaller size alone: Cityscapes' images are for a GPU, beside which threads score."""


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene, and something like a prediction of it."""
    rng = np.random.default_rng(0)
    _, truth = scenes.draw(0, 3, height=height, width=width)
    shift = np.repeat(np.repeat(rng.integers(-3, 4, (height // 20 + 1, width // 20 + 1, 2)), 20, 0), 20, 1)
    y, x = np.indices(truth.shape)
    y, x = (y + shift[:height, :width, 0]).clip(0, height - 1), (x + shift[:height, :width, 1]).clip(0, width - 1)
    pred = np.where(truth == IGNORED, 0, truth)[y, x]
    for _ in range(40):
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        pred[top : top + 8, left : left + 8] = rng.integers(0, CLASSES)
    return pred.astype(np.uint8), truth


def eroded(pred: np.ndarray, truth: np.ndarray) -> None:
    """Give every class's bands by erosions."""
    steps = max(1, round(0.02 * float(np.hypot(*truth.shape))))
    for label in range(CLASSES):
        for mask in (pred, truth):
            band((mask == label) & (truth != IGNORED), steps)


def forms(pred: np.ndarray, truth: np.ndarray) -> dict[str, Callable[[], Any]]:
    """List what is compared."""
    options = {"num_classes": CLASSES, "thresholds": PAPERS, "ignored": IGNORED}
    ours = functools.partial(boundary_f1, num_classes=CLASSES, ignore_index=IGNORED, threshold=PAPERS)
    for naive in (f1, f1_by_dilation):
        np.testing.assert_array_equal(ours(pred, truth), naive(pred, truth, **options))
    scores, small = BoundaryScores(CLASSES, IGNORED), truth.size < 10**6
    image = np.random.default_rng(0).integers(0, 256, (*truth.shape, 3), np.uint8)

    def prediction(stride: int) -> Callable[[], Any]:
        model = rayseg.create("gald", backbone="resnet18", num_classes=CLASSES, output_stride=stride).eval()
        return lambda: evaluate.predict(model, image, torch.device("cpu"), torch.float32, ViewConfig())

    return {
        "rayseg": lambda: scores.of(pred, truth),
        "F-scores, rayseg": lambda: ours(pred, truth),
        "F-scores, distance transforms": lambda: f1(pred, truth, **options),
        "F-scores, disks": lambda: f1_by_dilation(pred, truth, **options),
        "boundary IoU, erosions": lambda: eroded(pred, truth),
        **{f"gald, resnet18, stride {stride}": prediction(stride) for stride in ((16, 8) if small else ())},
    }


def measured(height: int, width: int, rounds: int) -> str:
    """Measure one size, as a table."""
    compared = forms(*pair(height, width))
    times: dict[str, list[float]] = {name: [] for name in compared}
    for turn in range(rounds + 1):
        for name, form in compared.items():
            start = time.perf_counter()
            form()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    first = times["rayseg"]
    lines = [f"### {height} x {width}", "", "| form | s, median | times rayseg |", "|---|---|---|"]
    for name, own in times.items():
        ratio = statistics.median(t / f for t, f in zip(own, first, strict=True))
        lines.append(f"| {name} | {statistics.median(own):.4f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Compare at CamVid's size here and at Cityscapes'."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    sizes = [(90, 120, 2)] if options.quick else [(360, 480, 7), (1024, 2048, 3)]
    tables = [measured(*size) for size in sizes]
    publish("boundary_scores", "Boundary scores of an image", [ABOUT, *tables], write=options.write)


if __name__ == "__main__":
    main()

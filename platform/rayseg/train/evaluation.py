"""What one pass over a split gave: sums, rows of images and masks; named as metrics, and kept in a commit."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.errors import CheckpointError
from rayseg.metrics import BoundaryScores, ConfusionMatrix, PerImage, threshold_name


class Evaluation(NamedTuple):
    """What one pass over a split gave; `shown` holds predicted masks by sample position, on rank 0.

    `latency_ms` is this rank's median time from an image to its mask, on the threads or the GPU that it has here.
    `images` has a row an image, in the split's order. `boundary` is None where the run leaves boundary scores out.
    What an earlier version wrote has neither, nor names of `classes`: no rows, None and none.
    """

    confusion: ConfusionMatrix
    shown: dict[int, np.ndarray]
    latency_ms: float
    images: PerImage
    boundary: BoundaryScores | None
    classes: tuple[str, ...]

    def metrics(self, class_names: Sequence[str]) -> dict[str, float]:
        """Name the figures, those that are defined.

        `miou`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_iou`, `latency_ms`, `iou/<class>`,
        `boundary_f1_3px` to `_12px` by GALD's protocol, `boundary_f1_3px_present` over the images where a class
        occurs, `boundary_iou`. A threshold has its name from the papers' images of 1024x2048.
        """
        confusion = self.confusion
        figures = {
            "miou": confusion.miou(),
            "pixel_accuracy": confusion.pixel_accuracy(),
            "mean_accuracy": confusion.mean_accuracy(),
            "frequency_weighted_iou": confusion.frequency_weighted_iou(),
            "latency_ms": self.latency_ms,
            **({} if self.boundary is None else _of_boundaries(self.boundary)),
        }
        figures |= {f"iou/{name}": float(v) for name, v in zip(class_names, confusion.iou(), strict=True)}
        return {name: value for name, value in figures.items() if not math.isnan(value)}


def _of_boundaries(boundary: BoundaryScores) -> dict[str, float]:
    names = [f"boundary_f1_{threshold_name(t)}" for t in boundary.thresholds_px]
    scores = dict(zip(names, boundary.mean().tolist(), strict=True))
    return {**scores, f"{names[0]}_present": float(boundary.mean_present()[0]), "boundary_iou": boundary.iou()}


def to_bytes(evaluation: Evaluation) -> bytes:
    """Give an evaluation as an .npz file, to be kept in the commit that it belongs to; `from_bytes` reads it."""
    images, boundary = evaluation.images, evaluation.boundary
    arrays: dict[str, Any] = {f"mask_{position}": mask for position, mask in evaluation.shown.items()}
    arrays |= {"counts": evaluation.confusion.counts, "ignore_index": evaluation.confusion.ignore_index}
    arrays |= {"latency_ms": evaluation.latency_ms, "classes": np.array(evaluation.classes, np.str_)}
    arrays |= {"image_hits": images.hits, "image_truth": images.truth, "image_found": images.found}
    if boundary is not None:
        arrays |= {"boundary_sums": boundary.sums, "boundary_present": boundary.present}
        arrays |= {"boundary_thresholds": boundary.thresholds_px, "boundary_images": boundary.images}
        arrays |= {"boundary_hits": boundary.hits, "boundary_union": boundary.union}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(path: Path) -> Evaluation:
    """Read the evaluation that a commit keeps.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return _read(dict(arrays))
    except FileNotFoundError:
        raise CheckpointError("no evaluation is kept", path, "name a commit that was evaluated") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"not an evaluation: {error}", path, "use another commit of the run") from None


def _read(arrays: dict[str, np.ndarray]) -> Evaluation:
    num_classes = len(arrays["counts"])
    confusion = ConfusionMatrix(num_classes, int(arrays.get("ignore_index", 255)))
    confusion.counts[...] = arrays["counts"]
    shown = {int(name.removeprefix("mask_")): mask for name, mask in arrays.items() if name.startswith("mask_")}
    images = PerImage.empty(0, num_classes)
    if "image_hits" in arrays:
        images = PerImage(arrays["image_hits"], arrays["image_truth"], arrays["image_found"])
    boundary = None
    if "boundary_sums" in arrays:
        boundary = BoundaryScores(num_classes, confusion.ignore_index, arrays["boundary_thresholds"].tolist())
        boundary.sums, boundary.present = arrays["boundary_sums"], arrays["boundary_present"]
        boundary.hits, boundary.union = arrays["boundary_hits"], arrays["boundary_union"]
        boundary.images = int(arrays["boundary_images"])
    classes = tuple(arrays["classes"].tolist()) if "classes" in arrays else ()
    return Evaluation(confusion, shown, float(arrays.get("latency_ms", 0.0)), images, boundary, classes)

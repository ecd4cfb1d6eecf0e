"""The images that a run is shown on: its own hardest, and in a sweep those that the first trials found hardest.

A sweep's driver chooses once, as soon as enough trials are over, and writes `hardest.json` into the sweep's folder; an
evaluation that finds it there keeps these masks, so that later trials are drawn from their commits alone.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rayseg.data import cursor
from rayseg.data.reader import ShardSet
from rayseg.durable import write_atomically
from rayseg.errors import CheckpointError, UsageError
from rayseg.metrics import PerImage
from rayseg.metrics.confusion import ratio
from rayseg.schema import Value, parse, to_dict

PLACE = "hardest.json"
TRIALS = "trials"
"""The folder of a sweep's folder in which its trials' folders lie."""


class Chosen(Value):
    """A sweep's hardest images, the hardest first: positions in the split and keys.

    `trials` are those that they were chosen from, and `data` is the digest of the split.
    """

    positions: tuple[int, ...]
    keys: tuple[str, ...]
    trials: tuple[str, ...]
    data: str


def scores(images: PerImage) -> NDArray[np.float64]:
    """Give each image's mean IoU (N,) over the classes in its truth or prediction; NaN without a labelled pixel."""
    iou = images.iou()
    return ratio(np.nansum(iou, axis=1), (~np.isnan(iou)).sum(axis=1))


def choose(seen: Sequence[PerImage], count: int) -> list[int]:
    """Choose the `count` images with the lowest score, averaged over evaluations, the hardest first.

    Of equals the first in the split; an image without a labelled pixel is never one. Where the evaluations are of
    different length, only images that all have are.
    """
    images = min(len(each.hits) for each in seen)
    mean = np.mean([scores(each)[:images] for each in seen], axis=0)
    return [int(i) for i in np.argsort(mean, kind="stable")[:count] if not math.isnan(mean[i])]


class Kept:
    """Masks kept while an evaluation goes by: those `wanted`, or of the `count` images that are hardest so far."""

    def __init__(self, count: int, wanted: Sequence[int] | None) -> None:
        self.masks: dict[int, np.ndarray] = {}
        self._count, self._wanted = count, wanted
        self._easiest: list[tuple[float, int]] = []

    def note(self, position: int, mask: np.ndarray, images: PerImage) -> None:
        """Take in an image's mask, after its row of `images` was filled."""
        if self._wanted is not None:
            if position in self._wanted:
                self.masks[position] = mask
            return
        score = float(scores(PerImage(*(rows[position : position + 1] for rows in images)))[0])
        if math.isnan(score) or not self._count:
            return
        self.masks[position] = mask
        heapq.heappush(self._easiest, (-score, -position))
        if len(self._easiest) > self._count:
            del self.masks[-heapq.heappop(self._easiest)[1]]

    def positions(self, images: PerImage) -> Sequence[int]:
        """Name the images to show once all ranks' rows are in `images`, the hardest first."""
        return choose([images], self._count) if self._wanted is None else self._wanted


def of_sweep(run_dir: Path, shards: ShardSet) -> Chosen | None:
    """Give what the run's sweep chose from these shards; None before that, for other shards, and for a run alone."""
    found = None
    if run_dir.parent.name == TRIALS:
        with suppress(CheckpointError):  # a picture costs no trial; the driver says it
            found = read(run_dir.parents[1])
    return found if found is not None and found.data == cursor.digest(shards.index) else None


def read(sweep: Path) -> Chosen | None:
    """Read what a sweep chose; None where it has not yet.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = sweep / PLACE
    try:
        return parse(Chosen, json.loads(path.read_text()), path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, UsageError) as error:
        raise CheckpointError(f"cannot be read: {error}", path, "remove it; others are chosen then") from None


def write(sweep: Path, seen: Sequence[tuple[str, PerImage]], shards: ShardSet, count: int) -> Chosen:
    """Choose from the evaluations of trials, by their keys, and write it down for all that follow."""
    positions = choose([images for _, images in seen], count)
    chosen = Chosen(
        positions=tuple(positions),
        keys=tuple(str(shards.index.key[position]) for position in positions),
        trials=tuple(key for key, _ in seen),
        data=cursor.digest(shards.index),
    )
    write_atomically(sweep / PLACE, json.dumps(to_dict(chosen), indent=1))
    return chosen

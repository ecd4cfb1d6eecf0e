"""What an evaluation adds up, image by image; boundary scores in threads beside a device that computes elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rayseg.data.reader import ShardSet
from rayseg.metrics import BoundaryScores, ConfusionMatrix, ImageBoundaries, PerImage
from rayseg.train.runtime import sum_over_ranks

AHEAD = 2
"""So many images a thread wait to be scored; the device waits where they are more, so memory stays as it is."""


class Tally:
    """Sums over a split's images. It grows by a row of `images` an image, and by nothing else.

    A context manager: what waits to be scored is scored, or dropped where the evaluation fails.
    """

    def __init__(self, shards: ShardSet, total: int, *, boundary: bool, threads: int) -> None:
        classes, ignored = shards.num_classes, shards.ignore_index
        self.confusion, self.images = ConfusionMatrix(classes, ignored), PerImage.empty(total, classes)
        self.boundary = BoundaryScores(classes, ignored) if boundary else None
        self._threads, self._waiting = threads, deque[Future[ImageBoundaries]]()
        self._held = ExitStack()

    def note(self, position: int, mask: NDArray[Any], truth: NDArray[Any], *, beside: bool = False) -> None:
        """Take in one image's prediction; `beside` leaves its boundaries to a thread."""
        self.images.note(position, self.confusion.update(mask, truth))
        if self.boundary is None:
            return
        if not beside:
            self.boundary.update(mask, truth)
            return
        self._waiting.append(self._pool.submit(self.boundary.of, mask, truth))
        if len(self._waiting) > AHEAD * self._threads:
            self.boundary.add(self._waiting.popleft().result())

    def over_ranks(self, device: torch.device) -> None:
        """Add up over all ranks, each of which calls it; then all have the set's."""
        for array in self._arrays():
            array[...] = sum_over_ranks(torch.from_numpy(array).to(device)).cpu().numpy()

    def _arrays(self) -> Iterator[NDArray[Any]]:
        yield self.confusion.counts
        yield from self.images
        if (boundary := self.boundary) is not None:
            yield from (boundary.sums, boundary.present, boundary.hits, boundary.union)
            images = np.array(boundary.images)
            yield images
            boundary.images = int(images)

    def __enter__(self) -> Self:
        self._pool = self._held.enter_context(ThreadPoolExecutor(self._threads, thread_name_prefix="rayseg-score"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while self._waiting:
            scored = self._waiting.popleft()
            if kind is None and self.boundary is not None:
                self.boundary.add(scored.result())
            else:
                scored.cancel()
        self._held.close()

"""Batches made ahead of their use by threads.

Measured on two cores: decoding threads reach 1457 samples/s where worker processes reach 797-904, for the decoders
release the interpreter's lock; reads at an offset are as fast as streaming.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import cv2
import numpy as np

from rayseg.data import plan
from rayseg.data.images import Pixels
from rayseg.data.plan import Plan, Position
from rayseg.data.reader import Sample, Samples
from rayseg.data.tolerance import Tolerance
from rayseg.errors import DataError, UsageError

Transform = Callable[[int, Pixels, Pixels, np.random.Generator], tuple[Pixels, Pixels]]
"""From a sample's position, image and mask, and its own generator, to what the batch holds; all of one size."""
_CHUNKS = 2
"""Tasks a thread gets of a batch: one task a sample costs 40 us each, one a thread leaves the last one waiting."""


Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of an image and of its mask."""


class Batch(NamedTuple):
    """One rank's part of a global batch: images `(b, H, W, 3)` uint8 RGB, labels `(b, H, W)` uint8.

    `lost` names, by their place in the batch, samples that could not be read, where others stand instead.
    """

    images: Pixels
    masks: Pixels
    keys: tuple[str, ...]
    step: int
    lost: dict[int, str]


class BatchLoader:
    """Makes batches ahead of their use from `start_step` on, up to `end_step` or for ever; a context manager too.

    The batch of a step is a pure function of the plan and the step: neither the number of threads nor that of ranks
    changes a pixel. What a thread raises, the iterator raises. `step` is the step of the next batch. With a `tolerance`
    samples that cannot be read are replaced.
    """

    def __init__(
        self,
        samples: Samples,
        order: Plan,
        *,
        start_step: int = 0,
        end_step: int | None = None,
        transform: Transform | None = None,
        tolerance: Tolerance | None = None,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        assert min(start_step, threads - 1, prefetch - 1) >= 0
        assert order.samples == len(samples)
        self.step, self.plan, self.tolerance, self._end = start_step, order, tolerance, end_step
        self._samples, self._transform, self._ahead, self._threads = samples, transform, prefetch, threads
        self._waiting: deque[_Growing] = deque()
        self._shapes: Shapes | None = None
        self._closed = False
        cv2.setNumThreads(0)  # OpenCV's own threads would fight with ours
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rayseg-read")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while len(self._waiting) <= self._ahead and self.step + len(self._waiting) != self._end:
            self._waiting.append(self._begin(self.step + len(self._waiting)))
        if not self._waiting:
            raise StopIteration
        batch = self._waiting[0].finished()  # an error stays first in line: asking again raises it again
        self._waiting.popleft()
        self._shapes = batch.images.shape[1:], batch.masks.shape[1:]
        self.step += 1
        return batch

    def close(self) -> None:
        """Drop what was made ahead and end the threads, each after the sample it is at."""
        self._closed = True
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, step: int) -> _Growing:
        places = list(enumerate(plan.positions(self.plan, step)))
        batch, each = _Growing(step, len(places), self._shapes), -(-len(places) // (_CHUNKS * self._threads))
        for first in range(0, len(places), each):
            batch.parts.append(self._pool.submit(self._make, batch, places[first : first + each]))
        return batch

    def _make(self, batch: _Growing, places: list[tuple[int, Position]]) -> None:
        keys = [str(self._samples.index.key[place.sample]) for _, place in places]
        # All generators first: between two decodings, which empty the processor's caches, one costs 55 us and not 12.
        rngs = [
            plan.augmentation_rng(self.plan.seed, place.epoch, key)
            for (_, place), key in zip(places, keys, strict=True)
        ]
        for (slot, place), planned, rng in zip(places, keys, rngs, strict=True):
            if self._closed:
                return
            position, sample = self._read(place)
            key, image, mask = sample
            if self._transform is not None:
                image, mask = self._transform(position, image, mask, rng)
            batch.put(slot, key, image, mask)
            if key != planned:
                batch.lost[slot] = planned

    def _read(self, place: Position) -> tuple[int, Sample]:
        """Read a sample, or what replaces it; with few enough lost ones the search ends."""
        position = place.sample
        for attempt in itertools.count():
            try:
                return position, self._samples.read(position)
            except DataError as error:
                if self.tolerance is None:
                    raise
                self.tolerance.count(position, error)
                position = self.tolerance.replacement(place.sample, place.epoch, attempt)
        raise AssertionError


class _Growing:
    """A batch whose samples arrive from threads in any order; the first to arrive says how large all are.

    Its arrays are made at once where that is known from the batch before: the memory that threads take for them goes
    back to the system each time, and 64 pages a sample come anew (measured: 110 us a sample with two threads).
    """

    def __init__(self, step: int, size: int, shapes: Shapes | None) -> None:
        self.step, self.keys, self.lost = step, [""] * size, dict[int, str]()
        self.parts: list[Future[None]] = []
        self._lock, self._empty = threading.Lock(), True
        self._shapes: Shapes | None = None
        if shapes is not None:
            self._make(shapes)

    def _make(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._images, self._masks = (np.empty((len(self.keys), *shape), np.uint8) for shape in shapes)

    def put(self, slot: int, key: str, image: Pixels, mask: Pixels) -> None:
        with self._lock:
            if self._empty and self._shapes != (image.shape, mask.shape):
                self._make((image.shape, mask.shape))
            self._empty = False
        if image.shape != self._images.shape[1:] or mask.shape != self._masks.shape[1:]:
            sizes = f"{image.shape[:2]} with mask {mask.shape} beside {self._images.shape[1:3]}"
            raise UsageError(
                f"samples of one batch differ in size: {sizes}", key, "crop all to one size (augment.crop_px)"
            )
        self.keys[slot], self._images[slot], self._masks[slot] = key, image, mask

    def finished(self) -> Batch:
        for part in self.parts:
            part.result()
        return Batch(self._images, self._masks, tuple(self.keys), self.step, self.lost)

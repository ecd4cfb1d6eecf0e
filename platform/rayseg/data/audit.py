"""The audit: every pair is decoded and checked before it enters a shard, and what was found is said."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from rayseg.data import images
from rayseg.data.card import Card
from rayseg.data.index import Index, Ints
from rayseg.data.pairs import Drawn, Pair
from rayseg.errors import DataError


class Audited(NamedTuple):
    """A checked pair, ready to be written. `sha256` is over the image's bytes and then the mask's."""

    key: str
    image: bytes
    extension: str
    mask: bytes
    height: int
    width: int
    class_pixels: Ints
    sha256: bytes


def in_order(members: Iterable[Pair | Drawn], card: Card, workers: int) -> Generator[Audited, None, None]:
    """Audit pairs in threads, a few ahead, and give them in order.

    Measured: Pillow decodes outside the interpreter's lock (250 PNGs/s with one thread, 502 with two), so processes
    would bring nothing but their start. The first fault in the order of keys is the one raised.
    """
    waiting: deque[Future[Audited]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rayseg-audit")
    try:
        for pair in members:
            waiting.append(pool.submit(check, pair, card))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check(pair: Pair | Drawn, card: Card) -> Audited:
    """Read and check one pair.

    Raises:
        DataError: the image or the mask is not what the card promises; the file is named.
    """
    image, mask = pair.load()
    height, width = images.check_image(image, pair.image)
    labels = images.check_mask(mask, pair.mask)
    if labels.shape != (height, width):
        sizes = f"mask is {labels.shape[0]}x{labels.shape[1]}, its image {height}x{width}"
        raise DataError(sizes, pair.mask, "give both the same height and width")
    counts = images.count_classes(labels, card.num_classes, card.ignore_index, pair.mask)
    extension = images.extension(image, pair.image)
    return Audited(pair.key, image, extension, mask, height, width, counts, hashlib.sha256(image + mask).digest())


def refuse_empty_splits(table: Index, card: Card) -> None:
    """Refuse a split in which nothing counts."""
    for name in dict.fromkeys(table.split):
        if not table.class_pixels[table.split == name, :-1].any():
            raise DataError(f"every pixel of split {name} is ignored", card.name, "mend its masks or ignore_index")


def warnings(table: Index, card: Card, samples: Mapping[str, int]) -> tuple[str, ...]:
    """Say what is odd but no fault: an unexpected number of samples, a class never seen, a sample seen twice."""
    return (*_unexpected(card, samples), *_never_seen(table, card), *_seen_twice(table))


def _unexpected(card: Card, samples: Mapping[str, int]) -> Iterator[str]:
    for name, split in card.splits.items():
        if split.expected is not None and samples[name] != split.expected:
            yield f"{name}: {samples[name]} samples where the card expects {split.expected}"


def _never_seen(table: Index, card: Card) -> Iterator[str]:
    for name in dict.fromkeys(table.split):
        pixels = table.class_pixels[table.split == name].sum(0)[:-1]
        for label in np.flatnonzero(pixels == 0):
            yield f"{name}: no pixel of class '{card.class_names[label]}'"


def _seen_twice(table: Index) -> Iterator[str]:
    _, first, group = np.unique(table.sha256, axis=0, return_index=True, return_inverse=True)
    twins = np.flatnonzero(first[group] != np.arange(len(table)))
    for row in twins[:1]:
        one = first[group[row]]
        places = f"{table.split[row]}/{table.key[row]} equals {table.split[one]}/{table.key[one]}"
        yield f"{len(twins)} samples are there twice under two keys, such as {places}"

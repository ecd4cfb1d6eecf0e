"""The audit: every pair is decoded and checked before it enters a shard, and what was found is said."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from rayseg.data import duplicates, images, recode
from rayseg.data.card import Card
from rayseg.data.images import Pixels
from rayseg.data.index import Index, Ints
from rayseg.data.labels import Coded
from rayseg.data.pairs import Drawn, Pair
from rayseg.errors import DataError

_TOLD = 4
"""How many pictures that are there twice a warning names."""


class Audited(NamedTuple):
    """A checked pair, ready to be written; the hashes are those of `index.Row`."""

    key: str
    image: bytes
    extension: str
    mask: Coded
    height: int
    width: int
    class_pixels: Ints
    source_sha256: bytes
    pixels_sha256: bytes


def in_order(
    members: Iterable[Pair | Drawn], card: Card, image_coding: str, *, workers: int
) -> Generator[Audited, None, None]:
    """Audit pairs in threads, a few ahead, and give them in order.

    Measured: Pillow decodes outside the interpreter's lock (250 PNGs/s with one thread, 502 with two), so processes
    would bring nothing but their start. The first fault in the order of keys is the one raised.
    """
    waiting: deque[Future[Audited]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rayseg-audit")
    try:
        for pair in members:
            waiting.append(pool.submit(check, pair, card, image_coding))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check(pair: Pair | Drawn, card: Card, image_coding: str = recode.KEEP) -> Audited:
    """Read and check one pair, and code its image as asked.

    Raises:
        DataError: the image or the mask is not what the card promises; the file is named.
    """
    image, source_mask = pair.source()
    pixels, mask = images.check_image(image, pair.image), pair.coded(source_mask)
    height, width = pixels.shape[:2]
    labels = images.check_mask(mask.mask, pair.mask)
    if labels.shape != (height, width):
        sizes = f"mask is {labels.shape[0]}x{labels.shape[1]}, its image {height}x{width}"
        raise DataError(sizes, pair.mask, "give both the same height and width")
    counts = images.count_classes(labels, card.num_classes, card.ignore_index, pair.mask)
    stored = image if image_coding == recode.KEEP else recode.encode(pixels, image_coding, pair.image)
    extension, source = images.extension(stored, pair.image), hashlib.sha256(image + source_mask).digest()
    return Audited(pair.key, stored, extension, mask, height, width, counts, source, _of_pixels(pixels))


def _of_pixels(pixels: Pixels) -> bytes:
    total = hashlib.sha256(f"{pixels.shape}".encode())
    total.update(np.ascontiguousarray(pixels).data)
    return total.digest()


def refuse_empty_splits(table: Index, card: Card) -> None:
    """Refuse a split in which nothing counts."""
    for name in dict.fromkeys(table.split):
        if not table.class_pixels[table.split == name, :-1].any():
            raise DataError(f"every pixel of split {name} is ignored", card.name, "mend its masks or ignore_index")


def warnings(table: Index, card: Card, samples: Mapping[str, int]) -> tuple[str, ...]:
    """Say what is odd but no fault: samples missing, pictures twice, labels without a class, classes never seen."""
    return (*_unexpected(card, samples), *_seen_twice(table), *_unknown(table), *_never_seen(table, card))


def _unexpected(card: Card, samples: Mapping[str, int]) -> Iterator[str]:
    for name, split in card.splits.items():
        if name in samples and split.expected is not None and samples[name] != split.expected:
            yield f"{name}: {samples[name]} samples where the card expects {split.expected}"


def _never_seen(table: Index, card: Card) -> Iterator[str]:
    for name in dict.fromkeys(table.split):
        pixels = table.class_pixels[table.split == name].sum(0)[:-1]
        never = [f"'{card.class_names[label]}'" for label in np.flatnonzero(pixels == 0)]
        if never:
            number = "class" if len(never) == 1 else f"{len(never)} classes:"
            yield f"{name}: no pixel of {number} {', '.join(never[:4])}{', ...' if len(never) > 4 else ''}"


def _unknown(table: Index) -> Iterator[str]:
    for name in dict.fromkeys(table.split):
        pixels = table.unknown_pixels[table.split == name]
        if pixels.any():
            share = pixels.sum() / table.class_pixels[table.split == name].sum()
            yield f"{name}: {share:.2%} of all pixels, in {(pixels > 0).sum()} samples, store what no class is; ignored"


def _seen_twice(table: Index) -> Iterator[str]:
    """Name pictures that are there twice: within a split they weigh double, across splits they spoil the score."""
    for place, groups in duplicates.by_place(duplicates.find(table)).items():
        samples = sum(len(group.rows) for group in groups)
        names = ", ".join(duplicates.named(group, table) for group in groups[:_TOLD])
        more = ", ... (the audit page has them)" if len(groups) > _TOLD else ""
        differ = sum(group.masks_differ for group in groups)
        masks = f"; the masks of {differ} differ" if differ else ""
        occur = "1 picture occurs" if len(groups) == 1 else f"{len(groups)} pictures occur"
        yield f"{place}: {occur} in {samples} samples: {names}{more}{masks}"

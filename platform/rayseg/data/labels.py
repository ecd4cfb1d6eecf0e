"""Label codings: what the masks of a data set store, turned into labels 0..C-1 and the ignored one.

A stored mask is a grey PNG of labels whatever its source was, so shards read the same for every data set. Where the
source is just that already, its own bytes are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.data import images, mat
from rayseg.data.card import MAX_VALUE, Card, Color
from rayseg.data.images import Pixels
from rayseg.errors import DataError

Table = NDArray[np.int16]
UNKNOWN = -1
MOST_NAMED = 32
"""How many of a mask's unknown values or colours are told apart: a soft brush leaves thousands."""


class Coded(NamedTuple):
    """A mask as it is stored, and what the source holds that the card does not know: pixels by value or colour.

    Such pixels are ignored ones. `unknown` has the most frequent; `unknown_pixels` counts all of them.
    """

    mask: bytes
    unknown: dict[str, int]
    unknown_pixels: int


class Coding:
    """A card's coding: `coded` gives a mask file as it is stored."""

    def __init__(self, card: Card) -> None:
        self._by_color, self._variable = card.labels.coding == "color", card.labels.variable
        sources: dict[Any, int] = card.colors if self._by_color else card.values
        self._known = sources
        self._other = card.ignore_index if card.labels.unknown == "ignore" else UNKNOWN
        plain = card.ignore_index in sources and all(value == label for value, label in sources.items())
        self._as_it_is = plain and not self._by_color and self._other == UNKNOWN

    def stored_mask(self, data: bytes, where: object) -> bytes:
        """Give the mask of `coded` alone."""
        return self.coded(data, where).mask

    def coded(self, data: bytes, where: object) -> Coded:
        """Give a mask, the bytes of a PNG or a MAT-file, as a grey PNG of labels.

        Raises:
            DataError: damaged, of another kind than the card says, or a value or colour that the card does not know.
        """
        if self._variable is not None and not data.startswith(images.PNG):
            return self._encoded(_whole(mat.read(data, self._variable, where), where), where)
        if self._as_it_is:
            return Coded(images.stored_mask(data, where), {}, 0)
        return self._encoded(images.check_colors(data, where) if self._by_color else _indices(data, where), where)

    def _encoded(self, stored: NDArray[Any], where: object) -> Coded:
        labels = _of_colors(stored, self._known) if self._by_color else _of_values(stored, self._known)
        unknown = labels == UNKNOWN
        strangers = stored[unknown]
        if len(strangers) and self._other == UNKNOWN:
            raise self._stranger(strangers, where)
        mask = images.encode_png(np.where(unknown, self._other, labels).astype(np.uint8))
        return Coded(mask, _counted(strangers), len(strangers))

    def _stranger(self, stored: NDArray[Any], where: object) -> DataError:
        found = np.unique(stored, axis=0).tolist()
        few = ", ".join(str(tuple(one) if self._by_color else one) for one in found[:4])
        what = f"mask has {'colour' if self._by_color else 'value'} {few}{', ...' if len(found) > 4 else ''}"
        fix = "the card names no class for it: mend the mask, or the card's classes or [labels]"
        return DataError(f"{what} in {len(stored)} pixels", where, fix)


def _counted(strangers: NDArray[Any]) -> dict[str, int]:
    """Count the most frequent values, written `7`, or colours, written `12,201,3`."""
    if not len(strangers):
        return {}
    found, pixels = np.unique(strangers, axis=0, return_counts=True)
    most = np.argsort(-pixels, kind="stable")[:MOST_NAMED]
    names = [",".join(map(str, np.atleast_1d(one).tolist())) for one in found[most]]
    return dict(zip(names, pixels[most].tolist(), strict=True))


def _indices(data: bytes, where: object) -> Pixels:
    images.stored_mask(data, where)  # says what a JPEG does to labels
    return images.check_mask(data, where)


def _whole(numbers: NDArray[Any], where: object) -> NDArray[np.int64]:
    """Take MATLAB's numbers, doubles more often than not, as the whole numbers they have to be."""
    height, width = numbers.shape
    if height * width > images.MAX_PIXELS:
        raise DataError(f"mask of {height}x{width} pixels", where, f"at most {images.MAX_PIXELS // 2**20} megapixels")
    good = (numbers >= 0) & (numbers <= MAX_VALUE)  # a NaN is neither
    good &= numbers == np.floor(numbers)
    if not good.all():
        raise DataError(f"mask has value {numbers[~good][0]}", where, f"values are whole numbers 0..{MAX_VALUE}")
    return numbers.astype(np.int64)


def _of_values(stored: NDArray[Any], known: Mapping[int, int]) -> Table:
    """One look-up for each pixel: 9 times faster than a search on a Cityscapes mask."""
    table = np.full(MAX_VALUE + 1, UNKNOWN, np.int16)
    table[list(known)] = list(known.values())
    return table.take(stored)


def _of_colors(stored: Pixels, known: Mapping[Color, int]) -> Table:
    """Search each colour among the known ones; a look-up would need a table of 2**24."""
    wide = stored.astype(np.int32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    codes = np.array([red << 16 | green << 8 | blue for red, green, blue in known], np.int32)
    order = np.argsort(codes)
    place = np.minimum(np.searchsorted(codes[order], packed), len(codes) - 1)
    labels = np.array(list(known.values()), np.int16)[order][place]
    return np.where(codes[order][place] == packed, labels, np.int16(UNKNOWN))

"""Pictures of samples, small: the image as JPEG, its mask as a PNG of the classes' colours, clear where ignored.

Both are data URLs, so that a page of them is one file. The bytes follow from the shard's alone (and from the versions
of OpenCV and Pillow).
"""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rayseg.data import images
from rayseg.data.card import Card
from rayseg.data.images import Pixels
from rayseg.data.index import Index
from rayseg.data.manifest import broken

QUALITY = 80
LINE = (255, 214, 0)


class Picture(NamedTuple):
    """An image and its mask as data URLs of one size, and that size."""

    image: str
    mask: str
    width: int
    height: int


class Album:
    """Makes pictures of the samples of a folder of shards, the row of whose index is named."""

    def __init__(self, folder: Path, card: Card, table: Index) -> None:
        self._folder, self._card, self._table = folder, card, table
        self._palette = np.zeros((256, 3), np.uint8)
        self._palette[: card.num_classes] = [spec.color for spec in card.classes]
        self._decoded = functools.lru_cache(maxsize=1)(self._decode)

    def picture(self, row: int, *, tall: int, only: int | None = None) -> Picture:
        """Draw a sample at most `tall` pixels high, and not much wider than a panorama of that height.

        Where `only` one class is asked for, the mask is black but for a hole, lined in yellow, where that class is.
        """
        image, mask = self._decoded(row)
        scale = min(1.0, tall / mask.shape[0], 2.5 * tall / mask.shape[1])
        size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        shown = _png(labels, self._palette, self._card.ignore_index) if only is None else _hole(labels == only)
        return Picture(_jpeg(small.astype(np.uint8, copy=False)), shown, *size)

    def _decode(self, row: int) -> tuple[Pixels, Pixels]:
        table = self._table
        where = f"{self._folder / table.shard[row]}: {table.key[row]}"
        with (self._folder / table.shard[row]).open("rb") as file:
            parts = []
            for part in ("image", "mask"):
                file.seek(getattr(table, f"{part}_offset")[row])
                parts.append(file.read(getattr(table, f"{part}_size")[row]))
        image, mask = images.decode_image(parts[0], where), images.decode_mask(parts[1], where)
        if image.shape[:2] != mask.shape:
            raise broken("image and mask differ in size", where)
        return image, mask


def _png(labels: Pixels, palette: Pixels, clear: int) -> str:
    """Draw labels by a palette, one of them clear: a third of the bytes of RGBA."""
    picture = Image.fromarray(labels)
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=clear, optimize=True)
    return _url("png", file.getvalue())


def _hole(here: NDArray[np.bool_]) -> str:
    """Draw black with a hole, and a line around it: a few pixels of a class are found by it."""
    around = cv2.dilate(here.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~here
    return _png(np.where(here, 1, 2 * around).astype(np.uint8), np.array([(0, 0, 0), (0, 0, 0), LINE], np.uint8), 1)


def _jpeg(pixels: Pixels) -> str:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return _url("jpeg", data.tobytes())


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

"""Height and width from an image's first bytes, before a decoder sees them: 2 us where a library's parser takes 35.

The reader knows from the index how large an image must be. A header that says otherwise is refused here, so that a few
crafted bytes never make a decoder fill the memory; `audit` and `verify` look with a whole parser.
"""

from __future__ import annotations

import struct

from rayseg.data.images import PNG, Bytes
from rayseg.errors import DataError

_ALONE = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers without a length behind them."""
_END, _SCAN = 0xD9, 0xDA
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Those that begin a frame, and so give its size; three of the row mean something else."""


def size(data: Bytes, where: object) -> tuple[int, int]:
    """Read height and width of a PNG or a JPEG.

    Raises:
        DataError: neither of them, or its header is damaged.
    """
    try:
        return _png(data) if bytes(data[:8]) == PNG else _jpeg(data)
    except (struct.error, IndexError, ValueError):
        raise DataError("no PNG or JPEG header", where, "run `rayseg verify` on the folder, and shard again") from None


def _png(data: Bytes) -> tuple[int, int]:
    if bytes(data[12:16]) != b"IHDR":
        raise ValueError
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _jpeg(data: Bytes) -> tuple[int, int]:
    """Walk from marker to marker to the frame's."""
    if bytes(data[:2]) != b"\xff\xd8":
        raise ValueError
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker in (_END, _SCAN, 0x00):
            raise ValueError
        if marker == 0xFF:  # a byte that fills
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]

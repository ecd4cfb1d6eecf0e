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
    """Read height and width of a PNG, a JPEG or a WebP.

    Raises:
        DataError: none of them, or its header is damaged.
    """
    try:
        if bytes(data[:4]) == b"RIFF":
            return _webp(data)
        return _png(data) if bytes(data[:8]) == PNG else _jpeg(data)
    except (struct.error, IndexError, ValueError):
        raise DataError(
            "no PNG, JPEG or WebP header", where, "run `rayseg verify` on the folder, and shard again"
        ) from None


def _png(data: Bytes) -> tuple[int, int]:
    if bytes(data[12:16]) != b"IHDR":
        raise ValueError
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _webp(data: Bytes) -> tuple[int, int]:
    """Read the first chunk of the three kinds: lossy, lossless, or a canvas of either."""
    kind, start = bytes(data[8:16]), bytes(data[20:30])
    if kind == b"WEBPVP8 " and start[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", start, 6)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"WEBPVP8L" and start[0] == 0x2F:
        bits = struct.unpack_from("<I", start, 1)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8X" and len(start) == 10:
        return 1 + int.from_bytes(start[7:10], "little"), 1 + int.from_bytes(start[4:7], "little")
    raise ValueError


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

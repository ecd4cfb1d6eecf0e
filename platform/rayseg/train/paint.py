"""Pictures put together from pixels, boxes and text: a few milliseconds, where a plotting library takes a second.

A trial ends with such pictures, and the next one waits for them.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]
INK, PALE, WHITE = (26, 26, 26), (130, 130, 130), (255, 255, 255)
LIMIT = 2 * 2**20
"""So many bytes a picture may have: a reviewer's page shows it at once."""
_QUALITIES = (90, 80, 70, 55, 40)


@final
class Canvas:
    """A white picture. Places are pixels from its left and upper edge."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self._picture = Image.new("RGB", (width, height), WHITE)
        self._draw = ImageDraw.Draw(self._picture)
        self._draw.fontmode = "L"

    def place(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put pixels (H,W,3) there."""
        from PIL import Image

        self._picture.paste(Image.fromarray(np.ascontiguousarray(pixels)), (x, y))

    def box(self, x: int, y: int, width: int, height: int, color: Color, *, edge: Color | None = None) -> None:
        """Fill a box of so many pixels."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color, outline=edge)

    def text(self, x: int, y: int, text: str, *, size: int = 12, color: Color = INK, anchor: str = "lm") -> None:
        """Write a line; `anchor` says what of it is at (x, y): `l`, `m` or `r`, then `a` (top), `m` or `s` (base)."""
        self._draw.text((x, y), text, fill=color, font=font(size), anchor=anchor)

    def upwards(self, x: int, y: int, text: str, *, size: int = 12) -> None:
        """Write a line that runs upwards from (x, y), the middle of its begin."""
        from PIL import Image, ImageDraw

        length, high = round(font(size).getlength(text)) + 2, size + 6
        line = Image.new("RGB", (length, high), WHITE)
        ImageDraw.Draw(line).text((0, high // 2), text, fill=INK, font=font(size), anchor="lm")
        self._picture.paste(line.rotate(90, expand=True), (x - high // 2, y - length))

    def save(self, path: Path) -> None:
        """Write a .png, or a .jpg that is as good as `LIMIT` allows; the bytes depend on the content alone."""
        if path.suffix == ".png":
            self._picture.save(path, "PNG")
            return
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            self._picture.save(buffer, "JPEG", quality=quality, subsampling=0)
            if buffer.tell() <= LIMIT:
                break
        path.write_bytes(buffer.getvalue())


@cache
def font(size: int) -> FreeTypeFont | ImageFont | Any:
    """Give the typeface that comes with Pillow, its capitals about two thirds of `size` pixels high."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def length(text: str, size: int = 12) -> int:
    """Measure a line in pixels."""
    return round(font(size).getlength(text))

"""Recoding: how images are coded in shards, as they are or anew. Masks are PNG whatever happens to images.

    keep       the source's own bytes (the default): no loss, no time, the same on every machine
    png        without loss, packed lightly
    webp       without loss; three quarters of the source PNG's bytes, read a third faster, eight times slower to write
    webp:95    with loss, at that quality
    jpeg:95    with loss; a quarter of the source PNG's bytes, read four times as fast

Ratios are of CamVid's 480x360 frames on one core. The bytes depend on the encoder's version, so it is written into
`dataset.json`. An image that is lossy already loses again: leave JPEGs as they are.
"""

from __future__ import annotations

import re

import cv2

from rayseg.data import images
from rayseg.data.images import Pixels
from rayseg.errors import DataError, UsageError

KEEP = "keep"
PATTERN = r"^(keep|png|webp|(jpeg|webp):([1-9]\d?|100))$"
MAX_WEBP_SIDE = 16_383
LOSSLESS = 101
"""What OpenCV takes above 100 for WebP without loss."""


def check(option: str) -> str:
    """Give the option back where it is one.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(PATTERN, option):
        raise UsageError(f"image coding '{option:.40}'", "--image", "use keep, png, webp, webp:QUALITY or jpeg:95")
    return option


def encoder(option: str) -> str | None:
    """Name what codes the images anew, for its version decides about their bytes; None where they are kept."""
    return None if option == KEEP else f"opencv {cv2.__version__}"


def encode(image: Pixels, option: str, where: object) -> bytes:
    """Encode RGB `(H, W, 3)`.

    Raises:
        DataError: larger than the coding allows.
    """
    form, _, quality = option.partition(":")
    if form == "png":
        return images.encode_png(image)
    if form == "webp" and max(image.shape) > MAX_WEBP_SIDE:
        sizes = f"image of {image.shape[0]}x{image.shape[1]} pixels"
        raise DataError(sizes, where, f"WebP ends at {MAX_WEBP_SIDE} a side: use another --image, or cut it up")
    flag = cv2.IMWRITE_JPEG_QUALITY if form == "jpeg" else cv2.IMWRITE_WEBP_QUALITY
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [flag, int(quality or LOSSLESS)])
    assert done
    return data.tobytes()


def growth(option: str, suffix: str) -> int:
    """Tell how many times larger a file of this name can become: JPEGs without loss take about that much."""
    return 8 if option in ("png", "webp") and suffix.lower() in (".jpg", ".jpeg") else 1

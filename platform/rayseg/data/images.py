"""Image files: checked to the last pixel before they enter a shard (Pillow), decoded fast when they leave it (OpenCV).

Pillow's PNG, JPEG and WebP classes are called by name: `Image.open` would try forty formats, and would warn about large
images on a stream of its own before this file has refused them.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from rayseg.errors import DataError

Bytes = bytes | memoryview
Pixels = NDArray[np.uint8]
MAX_PIXELS = 64 * 2**20
PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_READERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
EXTENSIONS = tuple(_READERS)
_PNG_DEPTH, _PNG_COLOUR = 24, 25
"""Where a PNG's header keeps bits a channel and the colour type (0 grey, 2 RGB, 3 palette)."""
_EXIF_ORIENTATION = 0x0112


def extension(data: Bytes, where: object) -> str:
    """Tell from the first bytes whether the file is `png`, `jpg` or `webp`; its name may lie.

    Raises:
        DataError: it is none of them.
    """
    start = bytes(data[:12])
    if start.startswith(PNG):
        return "png"
    if start.startswith(_JPEG):
        return "jpg"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    found = f"it starts with {start!r}" if start else "it is empty"
    raise DataError(f"neither PNG nor JPEG nor WebP: {found}", where, "give an 8-bit PNG or JPEG, or leave it out")


def size(data: Bytes, where: object) -> tuple[int, int]:
    """Read height and width from the header alone (10-20 us) and refuse what is larger than 64 megapixels."""
    return _checked_size(_opened(data, where), where)


def check_image(data: bytes, where: object) -> Pixels:
    """Decode the whole image, with every checksum in it, to `(H, W, 3)` RGB.

    Raises:
        DataError: damaged, larger than 64 megapixels, animated, turned by EXIF, or not 8-bit RGB or grey.
    """
    image = _opened(data, where)
    _checked_size(image, where)
    if image.mode not in ("RGB", "L") or (extension(data, where) == "png" and data[_PNG_DEPTH] != 8):
        bits = f"{data[_PNG_DEPTH]}-bit " if data.startswith(PNG) else ""
        raise DataError(f"image is {bits}{image.mode}", where, "convert it to 8-bit RGB")
    if _orientation(_decoded(data, image, where)) != 1:
        raise DataError("image is turned by its EXIF tag", where, "turn the pixels themselves, so that the mask fits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)


def stored_mask(data: bytes, where: object) -> bytes:
    """Give the mask as it is stored: the source's own bytes, or 8-bit grey where labels are a palette's indices."""
    if not data.startswith(PNG):
        raise DataError("mask is no PNG", where, "save labels as an 8-bit one-channel PNG; JPEG changes them")
    return encode_png(check_mask(data, where)) if data[_PNG_COLOUR : _PNG_COLOUR + 1] == b"\x03" else data


def check_mask(data: bytes, where: object) -> Pixels:
    """Decode a mask with every checksum in it to labels `(H, W)`.

    Raises:
        DataError: damaged, too large, not one channel of 8 bits. A palette's indices count as labels.
    """
    image = _opened(data, where)
    _checked_size(image, where)
    if not (image.mode == "P" or (image.mode == "L" and data[_PNG_DEPTH] == 8)):
        raise DataError(
            f"mask is {data[_PNG_DEPTH]}-bit {image.mode}", where, "save labels as an 8-bit one-channel PNG"
        )
    return np.asarray(_decoded(data, image, where), np.uint8)


def check_colors(data: bytes, where: object) -> Pixels:
    """Decode a mask whose colours are its labels, with every checksum in it, to `(H, W, 3)` RGB.

    Raises:
        DataError: no PNG, damaged, too large, not 8-bit RGB (a palette's colours count too).
    """
    if not data.startswith(PNG):
        raise DataError("mask is no PNG", where, "save colours as an 8-bit RGB PNG; JPEG changes them")
    image = _opened(data, where)
    _checked_size(image, where)
    if not (image.mode == "P" or (image.mode == "RGB" and data[_PNG_DEPTH] == 8)):
        raise DataError(f"mask is {data[_PNG_DEPTH]}-bit {image.mode}", where, "save colours as an 8-bit RGB PNG")
    image.info.pop("transparency", None)  # what shines through a palette's colour is no label
    return np.asarray(_decoded(data, image, where).convert("RGB"), np.uint8)


def count_classes(mask: Pixels, num_classes: int, ignore_index: int, where: object) -> NDArray[np.int64]:
    """Count the pixels of each class and, last, the ignored ones.

    Raises:
        DataError: a label is neither a class nor `ignore_index`.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = [int(label) for label in np.flatnonzero(counts) if label >= num_classes and label != ignore_index]
    if wrong:
        few = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        fix = f"labels are 0..{num_classes - 1} and {ignore_index} (ignored); mend the mask or the card"
        raise DataError(f"mask has label {few}", where, fix)
    return np.append(counts[:num_classes], counts[ignore_index]).astype(np.int64)


def decode_image(data: Bytes, where: object) -> Pixels:
    """Decode to `(H, W, 3)` RGB. EXIF is ignored: no turned image enters a shard."""
    return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, where)


def decode_mask(data: Bytes, where: object) -> Pixels:
    """Decode to labels `(H, W)`."""
    return _decode(data, cv2.IMREAD_UNCHANGED, where)


def encode_png(pixels: Pixels) -> bytes:
    """Encode RGB `(H, W, 3)` or labels `(H, W)` as PNG at level 1: without loss, and cheap to write and read."""
    planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(".png", planes, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


def _opened(data: Bytes, where: object) -> ImageFile:
    reader = _READERS[extension(data, where)]
    try:
        return reader(io.BytesIO(data))
    except Exception as error:  # Pillow raises a dozen types on a damaged file, SyntaxError among them
        raise _damaged(error, where) from None


def _checked_size(image: ImageFile, where: object) -> tuple[int, int]:
    width, height = image.size
    if height * width > MAX_PIXELS:
        fix = f"at most {MAX_PIXELS // 2**20} megapixels: scale it down or cut it up"
        raise DataError(f"image of {height}x{width} pixels", where, fix)
    return height, width


def _decoded(data: bytes, image: ImageFile, where: object) -> ImageFile:
    """Decode all pixels; a PNG's chunk checksums are looked at first, for `load` skips those of pixel data."""
    if getattr(image, "n_frames", 1) != 1:
        raise DataError("image is animated", where, "save one frame of it")
    try:
        if data.startswith(PNG):
            _opened(data, where).verify()
        image.load()
    except Exception as error:  # as above
        raise _damaged(error, where) from None
    return image


def _orientation(image: ImageFile) -> object:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a tag nobody can read turns nothing
        return 1


def _damaged(error: Exception, where: object) -> DataError:
    return DataError(f"image is damaged: {str(error)[:120]}", where, "fetch the file again, or leave the sample out")


def _decode(data: Bytes, flags: int, where: object) -> Pixels:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(error, where) from None
    if image is None:
        raise DataError("image cannot be decoded", where, "run `rayseg verify` on the folder, and shard again")
    return image.astype(np.uint8, copy=False)

"""Images: what is damaged, dangerous or not what the card promises does not enter a shard."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayseg.data import images
from rayseg.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
LABELS = RNG.integers(0, 5, (20, 30), np.uint8)


def encoded(pixels: np.ndarray[Any, Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Encode by Pillow, the independent side of these tests."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def raw_png(height: int, width: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """Write a PNG by hand: kinds Pillow does not write, and sizes it refuses."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


HUGE = raw_png(10_000, 10_000, 8, 0, bytes(10**6))
SIXTEEN_BIT_RGB = raw_png(4, 4, 16, 2, bytes(4 * (1 + 4 * 6)))
FOUR_BIT_GREY = raw_png(4, 4, 4, 0, bytes([0, 0x12, 0x34]) * 4)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RGB, "JPEG", exif=exif)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def animated() -> bytes:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return encoded(frames[0], save_all=True, append_images=frames[1:])


BAD_IMAGES = {
    "empty": (b"", "it is empty"),
    "html": (b"<!DOCTYPE html><html>", "neither PNG nor JPEG"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "neither PNG nor JPEG"),
    "gif": (encoded(RGB, "GIF"), "neither PNG nor JPEG"),
    "header alone": (encoded(RGB)[:20], "damaged"),
    "cut png": (encoded(RGB)[:-200], "damaged"),
    "cut jpeg": (encoded(RGB, "JPEG")[:-200], "damaged"),
    "a flipped bit in pixel data": (flipped(encoded(RGB), 700), "damaged"),
    "a flipped bit in the header": (flipped(encoded(RGB), 19), "damaged"),
    "a flipped bit in a checksum": (flipped(encoded(RGB), -14), "damaged"),
    "cmyk": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "image is CMYK"),
    "transparent": (encoded(Image.fromarray(RGB).convert("RGBA")), "RGBA"),
    "16 bit": (encoded(RGB[..., 0].astype(np.uint16)), "16-bit"),
    "animated": (animated(), "animated"),
    "turned": (turned(), "EXIF"),
    "16 bit rgb": (SIXTEEN_BIT_RGB, "16-bit RGB"),
    "100 megapixels": (HUGE, "10000x10000 pixels .*64 megapixels"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused(name: str) -> None:
    data, says = BAD_IMAGES[name]
    start = time.process_time()
    with pytest.raises(DataError, match=says) as caught:
        images.check_image(data, "a/b.png")
    assert time.process_time() - start < 2
    assert "(a/b.png)" in str(caught.value)
    assert len(str(caught.value)) < 300


BAD_MASKS = {
    "rgb": (encoded(RGB), "8-bit RGB"),
    "16 bit": (encoded(LABELS.astype(np.uint16)), "16-bit"),
    "1 bit": (encoded(Image.fromarray(LABELS * 80).convert("1")), "1-bit"),
    "4 bit": (FOUR_BIT_GREY, "4-bit"),
    "jpeg": (encoded(LABELS, "JPEG"), "no PNG"),
    "cut": (encoded(LABELS)[:-40], "damaged"),
    "animated": (animated(), "RGB"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_bad_mask_is_refused(name: str) -> None:
    data, says = BAD_MASKS[name]
    with pytest.raises(DataError, match=says):
        images.check_mask(images.stored_mask(data, "m.png"), "m.png")


@pytest.mark.parametrize(("form", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_the_reader_sees_what_pillow_sees(form: str, extension: str) -> None:
    data = encoded(RGB, form)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image)
    assert images.extension(data, "x") == extension
    assert images.size(data, "x") == (20, 30)
    np.testing.assert_array_equal(images.check_image(data, "x"), wanted)
    np.testing.assert_array_equal(images.decode_image(memoryview(data), "x"), wanted)


def test_a_grey_image_becomes_three_equal_channels() -> None:
    np.testing.assert_array_equal(images.decode_image(encoded(LABELS), "x"), np.stack([LABELS] * 3, -1))


def test_png_is_without_loss() -> None:
    np.testing.assert_array_equal(images.decode_image(images.encode_png(RGB), "x"), RGB)
    np.testing.assert_array_equal(images.decode_mask(images.encode_png(LABELS), "x"), LABELS)


def test_a_grey_mask_is_stored_as_it_is() -> None:
    data = encoded(LABELS)
    assert images.stored_mask(data, "x") is data


def test_a_palette_masks_indices_are_its_labels() -> None:
    image = Image.fromarray(LABELS, "L")
    image.putpalette([int(value) for value in RNG.integers(0, 256, 15)])
    data = encoded(image)
    assert data[24] < 8, "Pillow packs five colours into four bits: the case where a plain decoder goes wrong"
    stored = images.stored_mask(data, "x")
    np.testing.assert_array_equal(images.decode_mask(stored, "x"), LABELS)
    np.testing.assert_array_equal(images.check_mask(stored, "x"), LABELS)


def test_classes_are_counted_and_other_labels_named() -> None:
    mask = LABELS.copy()
    mask[0, :7] = 9
    counts = images.count_classes(mask, 5, 9, "m.png")
    assert counts.tolist() == [int((mask == label).sum()) for label in (0, 1, 2, 3, 4, 9)]
    mask[3, 3:6] = 7, 200, 5
    with pytest.raises(DataError, match=r"label 5, 7, 200 \(m.png\): labels are 0\.\.4 and 9"):
        images.count_classes(mask, 5, 9, "m.png")


def test_what_opencv_cannot_decode() -> None:
    with pytest.raises(DataError):
        images.decode_image(b"nonsense", "x")
    with pytest.raises(DataError):
        images.decode_mask(b"", "x")

"""Header sizes: what a whole parser says, and nothing from what is no header."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayseg.data import headers, images
from rayseg.errors import DataError

sides = st.integers(1, 300)


def pillow(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@given(height=sides, width=sides, quality=st.sampled_from([5, 60, 95]), progressive=st.booleans())
def test_jpegs(height: int, width: int, quality: int, progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description \xff\xc0 with marker bytes in it" * 3
    pixels = noise(height, width)
    for data in (
        pillow(pixels, "JPEG", quality=quality, progressive=progressive),
        pillow(
            pixels[..., 0], "JPEG", quality=quality, exif=exif, comment=b"\xff\xc0 no frame", icc_profile=b"\xff" * 90
        ),
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    ):
        assert headers.size(memoryview(data), "x") == (height, width) == images.size(data, "x")


@pytest.mark.parametrize("before", [b"\xff\xc4\0\x0b", b"\xff\xc8\0\x0b", b"\xff\xcc\0\x0b", b"\xff\xff\xff\xe1\0\x0b"])
def test_what_stands_before_a_jpegs_frame(before: bytes) -> None:
    """Tables, and bytes that fill, may come first; three of the markers among the frames' are none."""
    data = pillow(noise(20, 31), "JPEG")
    assert headers.size(data[:2] + before + bytes(range(9)) + data[2:], "x") == (20, 31)


@given(height=sides, width=sides)
def test_pngs(height: int, width: int) -> None:
    for data in (pillow(noise(height, width), "PNG"), images.encode_png(noise(height, width)[..., 0].copy())):
        assert headers.size(memoryview(data), "x") == (height, width)


@given(height=sides, width=sides, lossless=st.booleans(), exif=st.booleans())
def test_webps(height: int, width: int, lossless: bool, exif: bool) -> None:
    more = {"exif": Image.Exif()} if exif else {}
    data = pillow(noise(height, width), "WEBP", lossless=lossless, method=0, **more)
    assert headers.size(memoryview(data), "x") == (height, width)


@given(data=st.binary(max_size=64), start=st.sampled_from([b"", b"\xff\xd8\xff", images.PNG, b"RIFF\0\0\0\0WEBP"]))
def test_garbage_is_refused_or_has_some_size(data: bytes, start: bytes) -> None:
    try:
        size = headers.size(memoryview(start + data), "x")
    except DataError:
        return
    assert len(size) == 2


@pytest.mark.parametrize("cut", [0, 1, 2, 8, 12, 20])
def test_a_cut_header_is_refused(cut: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        with pytest.raises(DataError, match="header"):
            headers.size(memoryview(pillow(noise(9, 9), kind)[:cut]), "x")

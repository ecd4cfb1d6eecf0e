"""Recoding: without loss where that is said, near where it is not, and read back by the reader as any image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_sets import make_card

from rayseg.data import headers, images, manifest, open_shards, recode, shards
from rayseg.data.images import Pixels
from rayseg.errors import DataError, UsageError

SMOOTH = np.stack(np.meshgrid(np.arange(64), np.arange(48), indexing="xy") * 2, -1)[..., :3].astype(np.uint8) * 3
NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("option", ["png", "webp"])
@pytest.mark.parametrize("pixels", [SMOOTH, NOISE, NOISE[:1, :1], np.zeros((5, 7, 3), np.uint8)])
def test_without_loss(option: str, pixels: Pixels) -> None:
    data = recode.encode(pixels, option, "x")
    np.testing.assert_array_equal(images.decode_image(data, "x"), pixels)
    np.testing.assert_array_equal(images.check_image(data, "x"), pixels)
    assert images.extension(data, "x") == option


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_with_loss_quality_tells_how_much(form: str) -> None:
    sizes, errors = [], []
    for quality in (20, 60, 95):
        data = recode.encode(SMOOTH, f"{form}:{quality}", "x")
        sizes.append(len(data))
        errors.append(float(((images.decode_image(data, "x").astype(float) - SMOOTH) ** 2).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 65.5, "30 dB"
    assert images.extension(data, "x") == {"jpeg": "jpg", "webp": "webp"}[form]


@pytest.mark.parametrize(
    "option", ["jpeg", "jpeg:0", "jpeg:101", "jpeg:95.5", "png:9", "webp:", "bmp", "", "keep ", "jpeg:09"]
)
def test_what_is_no_coding(option: str, files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="image coding"):
        shards.write(make_card(), files, tmp_path / "out", image=option)


def test_a_side_that_webp_does_not_have() -> None:
    with pytest.raises(DataError, match=r"1x16384 pixels \(big.png\): WebP ends at 16383"):
        recode.encode(np.zeros((1, 16_384, 3), np.uint8), "webp", "big.png")
    assert recode.encode(np.zeros((1, 16_383, 3), np.uint8), "webp", "x")


@pytest.mark.parametrize("option", ["keep", "png", "webp", "webp:90", "jpeg:95"])
def test_shards_of_it(option: str, files: Path, tmp_path: Path) -> None:
    """Images are of that coding, masks and counts are not touched, and dataset.json says by what."""
    for workers in (1, 3):
        shards.write(make_card(), files, tmp_path / str(workers), image=option, workers=workers)
    one, three = ({path.name: path.read_bytes() for path in (tmp_path / w).iterdir()} for w in ("1", "3"))
    assert one == three
    shards.verify(tmp_path / "1")
    for sample in open_shards(tmp_path / "1", "train"):
        with (
            Image.open(files / f"train/{sample.key}.png") as image,
            Image.open(files / f"trainannot/{sample.key}.png") as mask,
        ):
            np.testing.assert_array_equal(sample.mask, np.asarray(mask))
            error = np.abs(sample.image.astype(int) - np.asarray(image)).max()
        assert (error == 0) == (option in ("keep", "png", "webp"))
    whole = manifest.read(tmp_path / "1")
    assert (whole.image, whole.encoder is None) == (option, option == "keep")
    form = option.partition(":")[0]
    extension = {"keep": "png", "jpeg": "jpg"}.get(form, form)
    assert set(open_shards(tmp_path / "1", "train").index.image_ext) == {extension}


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (48, 64), (300, 17)])
@pytest.mark.parametrize(
    "how", [{"lossless": True}, {"quality": 80}, {"quality": 80, "exif": b"Exif\0\0"}, {"icc_profile": b"x" * 99}]
)
def test_the_size_that_a_webp_header_states(size: tuple[int, int], how: dict[str, Any]) -> None:
    """Pillow writes the three kinds of header: lossless, lossy, and extended where there is metadata."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(file, "WEBP", **how)
    assert headers.size(file.getvalue(), "x") == images.size(file.getvalue(), "x") == size
    for cut in (4, 12, 16, 22, 24):
        with pytest.raises(DataError):
            headers.size(file.getvalue()[:cut], "x")


def test_the_same_again_and_another(files: Path, tmp_path: Path) -> None:
    shards.write(make_card(), files, tmp_path / "out", image="jpeg:95")
    assert shards.write(make_card(), files, tmp_path / "out", image="jpeg:95").unchanged
    for option in ("keep", "jpeg:94"):
        with pytest.raises(DataError, match="holds something else"):
            shards.write(make_card(), files, tmp_path / "out", image=option)


def test_what_will_grow_is_cut_sooner(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in list((files / "train").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    splits = {
        name: {"images": f"{name}/*.{kind}", "masks": f"{name}annot/*.png"}
        for name, kind in (("train", "jpg"), ("val", "png"))
    }
    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    card = make_card(splits=splits)
    shards.write(card, files, tmp_path / "kept")
    shards.write(card, files, tmp_path / "grown", image="png")
    kept, grown = (len(list((tmp_path / name).glob("train-*.tar"))) for name in ("kept", "grown"))
    assert (kept, grown) == (1, 6)

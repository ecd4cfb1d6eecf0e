"""Label codings: each against the plain form of it, a look-up pixel by pixel; what is unknown is named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_sets import CLASSES, IGNORED, make_card, make_mask, put_mask, stored_by

from rayseg.data import card, images
from rayseg.data.card import Card
from rayseg.data.labels import Coding
from rayseg.errors import DataError

NAMED = [{"name": f"class{i}", "color": [40 * i, 0, 255 - i]} for i in range(CLASSES)]
MERGED = [spec | {"values": [7 + i, 300 + i, 60_000 + i]} for i, spec in enumerate(NAMED)]
TINTED = [spec | ({"colors": [[1, 2, i], [i, 9, 9]]} if i % 2 else {}) for i, spec in enumerate(NAMED)]
MATLAB = {"splits": {"train": {"images": "t/*.png", "masks": "m/*.mat"}}}

CODINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shifted": {"labels": {"shift": 1, "ignore": [0]}},
    "shifted, nothing ignored": {"labels": {"shift": 3, "ignore": []}},
    "mapped": {"classes": [spec | {"values": [9 - i]} for i, spec in enumerate(NAMED)], "labels": {"ignore": [0, 200]}},
    "merged": {"classes": MERGED, "labels": {"variable": "A.b", "ignore": [0, 1]}} | MATLAB,
    "matlab": {"labels": {"variable": "S"}} | MATLAB,
    "colours": {"labels": {"coding": "color", "ignore_colors": [[0, 0, 0]]}, "classes": TINTED[1:]},
    "colours of the classes": {"labels": {"coding": "color"}},
}


def stored(coding: Card, coded: np.ndarray[Any, Any], folder: Path) -> np.ndarray[Any, Any]:
    path = folder / ("mask.mat" if coding.labels.variable else "mask.png")
    put_mask(path, coded, coding.labels.variable)
    return images.check_mask(Coding(coding).stored_mask(path.read_bytes(), path), path)


@pytest.mark.parametrize("name", CODINGS)
def test_each_pixel_is_looked_up(name: str, tmp_path: Path) -> None:
    coding = make_card(**CODINGS[name])
    labels, coded = make_mask(coding, 3)
    plain = {one: label for label, many in stored_by(coding).of_label.items() for one in many}
    plain |= dict.fromkeys(stored_by(coding).ignored, coding.ignore_index)
    found = stored(coding, coded, tmp_path)
    np.testing.assert_array_equal(found, labels)
    for y, x in np.ndindex(labels.shape):
        one = coded[y, x]
        assert found[y, x] == plain[tuple(one.tolist()) if coded.ndim == 3 else int(one)]


@pytest.mark.parametrize("name", [name for name in CODINGS if name != "as it is"])
def test_what_the_card_does_not_know_is_named(name: str, tmp_path: Path) -> None:
    coding = make_card(**CODINGS[name])
    _, coded = make_mask(coding, 3)
    coded[2, 3:6] = 99
    says = r"colour \(99, 99, 99\) in 3 pixels" if coded.ndim == 3 else "value 99 in 3 pixels"
    with pytest.raises(DataError, match=rf"mask has {says} .*mask\.(png|mat)"):
        stored(coding, coded, tmp_path)


@pytest.mark.parametrize("name", CODINGS)
def test_what_the_card_does_not_know_is_ignored_where_it_says_so(name: str, tmp_path: Path) -> None:
    changes = CODINGS[name] | {"labels": CODINGS[name].get("labels", {}) | {"unknown": "ignore"}}
    labels, coded = make_mask(make_card(**changes), 3)
    coded[2, 3:6], labels[2, 3:6] = 99, IGNORED
    np.testing.assert_array_equal(stored(make_card(**changes), coded, tmp_path), labels)


def test_a_mask_that_is_labels_already_keeps_its_bytes() -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(CLASSES, dtype=np.uint8)[None]).save(file, "PNG", pnginfo=None, compress_level=3)
    assert Coding(make_card()).stored_mask(file.getvalue(), "m.png") == file.getvalue()


def test_nothing_is_ignored_where_the_card_says_so() -> None:
    data = images.encode_png(np.full((2, 3), IGNORED, np.uint8))
    with pytest.raises(DataError, match=f"mask has value {IGNORED} in 6 pixels"):
        Coding(make_card(labels={"ignore": []})).stored_mask(data, "m.png")


@pytest.mark.parametrize("name", ["camvid", "scenes"])
def test_the_first_cards_masks_keep_their_bytes(name: str) -> None:
    data = images.encode_png(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert Coding(card.load(name)).stored_mask(data, "m.png") == data


def test_a_palettes_colours_count_as_colours(tmp_path: Path) -> None:
    coding = make_card(**CODINGS["colours of the classes"])
    labels, coded = make_mask(coding, 5)
    image = Image.fromarray(labels)
    image.putpalette([channel for spec in coding.classes for channel in spec.color])
    image.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    data = (tmp_path / "p.png").read_bytes()
    np.testing.assert_array_equal(images.check_colors(data, "p"), coded)
    np.testing.assert_array_equal(images.check_mask(Coding(coding).stored_mask(data, "p"), "p"), labels)


@pytest.mark.parametrize(
    ("value", "says"), [(1.5, "value 1.5"), (np.nan, "value nan"), (-1, "value -1"), (1e9, "whole")]
)
def test_matlabs_numbers_have_to_be_whole(value: float, says: str, tmp_path: Path) -> None:
    coding = make_card(**CODINGS["matlab"])
    coded = np.zeros((4, 4))
    coded[1, 2] = value
    put_mask(tmp_path / "m.mat", np.zeros((4, 4)), "S")
    from scipy.io import savemat

    savemat(tmp_path / "m.mat", {"S": coded})
    with pytest.raises(DataError, match=says):
        Coding(coding).stored_mask((tmp_path / "m.mat").read_bytes(), "m.mat")


BAD = {
    "a grey mask where colours are": ("colours", "L", "8-bit L"),
    "transparent colours": ("colours", "RGBA", "8-bit RGBA"),
    "colours where values are": ("shifted", "RGB", "8-bit RGB"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mask_of_another_kind(name: str, tmp_path: Path) -> None:
    coding, mode, says = BAD[name]
    Image.new(mode, (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=says):
        Coding(make_card(**CODINGS[coding])).stored_mask((tmp_path / "m.png").read_bytes(), "m.png")


@pytest.mark.parametrize("name", CODINGS)
def test_a_jpeg_is_no_mask(name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    labels: dict[str, object] = CODINGS[name].get("labels", {})
    form = "colours as an 8-bit RGB PNG" if labels.get("coding") == "color" else "labels as an 8-bit one-channel PNG"
    says = "no MAT-file" if "variable" in labels else f"no PNG .*: save {form}"
    with pytest.raises(DataError, match=says):
        Coding(make_card(**CODINGS[name])).stored_mask(file.getvalue(), "m")

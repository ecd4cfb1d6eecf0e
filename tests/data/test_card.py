"""Cards: every card that ships is sound, and a fault in one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayseg.data import card
from rayseg.data.card import Card
from rayseg.errors import UsageError
from rayseg.schema import parse, to_dict


@pytest.mark.parametrize("name", card.names())
def test_every_card_is_sound(name: str) -> None:
    loaded = card.load(name)
    assert loaded.name == name
    assert loaded.num_classes == len(set(loaded.class_names)) == len({spec.color for spec in loaded.classes})
    assert not 0 <= loaded.ignore_index < loaded.num_classes
    assert {"train", "val"} <= loaded.splits.keys()
    assert parse(Card, to_dict(loaded), "round trip") == loaded


def test_camvid_is_among_them() -> None:
    loaded = card.load("camvid")
    assert loaded.class_names[3] == "Road"
    assert (loaded.num_classes, loaded.ignore_index) == (11, 11)


def test_a_card_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes((card.FOLDER / "camvid.toml").read_bytes())
    assert card.load(path) == card.load("camvid")


@pytest.mark.parametrize("name", ["camvd", "", "../datasets/camvid", "no/such", "pipe:touch pwned"])
def test_an_unknown_card_names_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=r"valid: .*camvid") as caught:
        card.load(name)
    assert name != "camvd" or "did you mean 'camvid'" in str(caught.value)


FILES = {"images": "t/*.png", "masks": "m/*.png"}


def two(first: dict[str, Any], second: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Two classes with something more in each."""
    return [{"name": f"c{i}", "color": [i, 0, 0]} | more for i, more in enumerate((first, second or {}))]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"ignore_indx": 3}, "unknown key 'ignore_indx'.*did you mean 'ignore_index'"),
    (
        {"classes": [{"name": "a", "color": [0, 0, 0], "colour": 1}]},
        "unknown key 'colour'.*classes.0.*did you mean 'color'",
    ),
    ({"splits": {"train": {"image": "t/*.png", "masks": "m/*.png"}}}, "unknown key 'image'.*did you mean 'images'"),
    ({"ignore_index": 4}, r"ignore_index = 4.*is one of the labels 0\.\.4"),
    ({"ignore_index": 256}, "ignore_index = 256"),
    ({"ignore_index": -1}, "ignore_index = -1"),
    ({"classes": [{"name": "a", "color": [0, 0, 0]}]}, "classes"),
    ({"classes": [{"name": "a", "color": [0, 0, 0]}] * 2}, "two classes are called 'a'"),
    ({"classes": [{"name": "a", "color": [0, 0, 256]}]}, "color.2 = 256"),
    ({"classes": "sky"}, "classes"),
    ({"splits": {}}, "splits"),
    ({"splits": {"train": 3}}, "splits.train"),
    ({"splits": {"train": {"images": "t/*.png"}}}, "needs 'images' and 'masks'"),
    ({"splits": {"train": {"count": 3}}}, "needs 'images' and 'masks'"),
    ({"splits": {"Tr/ain": {"images": "t/*.png", "masks": "m/*.png"}}}, "splits"),
    ({"splits": {"train": {"images": "../t/*.png", "masks": "m/*.png"}}}, "below the root"),
    ({"splits": {"train": {"images": "/t/*.png", "masks": "m/*.png"}}}, "below the root"),
    ({"splits": {"train": {"images": "t/**.png", "masks": "m/*.png"}}}, "below the root"),
    ({"splits": {"train": {"images": "t/a.png", "masks": "m/*.png"}}}, "common name"),
    ({"splits": {"train": {"images": "*/*.png", "masks": "m/*.png"}}}, r"as many \* in"),
    ({"generated": {"seed": 0, "height": 32, "width": 32}}, "takes 'count' alone"),
    ({"generated": {"seed": -1, "height": 32, "width": 32}}, "generated.seed = -1"),
    ({"labels": {"codng": "color"}}, "unknown key 'labels.codng'.*did you mean 'coding'"),
    ({"labels": {"coding": "colour"}}, "labels.coding = "),
    ({"labels": {"coding": "color", "shift": 1}}, "'shift' does not go with the coding 'color'"),
    ({"labels": {"coding": "color", "ignore": [0]}}, "'ignore' does not go with the coding 'color'"),
    ({"labels": {"ignore_colors": [[0, 0, 0]]}}, "'ignore_colors' does not go with the coding 'value'"),
    ({"classes": two({"colors": [[1, 1, 1]]})}, "'colors of a class' does not go with the coding 'value'"),
    ({"classes": two({"values": [1]})}, "what masks store as 1 stands for two labels"),
    ({"classes": two({"values": [9]})}, "what masks store as 9 stands for two labels"),
    ({"classes": two({"values": [7]}, {"values": [8]}), "labels": {"shift": 1}}, "leave 'shift' out"),
    ({"classes": two({"values": []})}, "values = "),
    ({"classes": two({"values": [65536]})}, "values.0 = 65536"),
    ({"labels": {"shift": 1, "ignore": [5]}}, "what masks store as 5 stands for two labels"),
    ({"labels": {"variable": "S"}}, r"'variable' of \.mat masks"),
    ({"labels": {"variable": "a..b"}}, "labels.variable = "),
    ({"splits": {"train": {"images": "t/*.png", "masks": "m/*.mat"}}}, r"'variable' of \.mat masks"),
    ({"splits": {"train": FILES | {"lists": ["../train.txt"]}}}, "below the root"),
    ({"splits": {"train": FILES | {"lists": []}}}, "lists = "),
    ({"splits": {"train": FILES | {"images": "*/*.png", "masks": "*/*.png", "lists": ["a"]}}}, r"what one \* stands"),
    ({"splits": {"train": FILES | {"count": 3}}}, "needs 'images' and 'masks'"),
    ({"splits": {"train": FILES, "all": {"of": ["train"]}}}, "of = "),
    ({"splits": {"train": FILES, "all": {"of": ["train", "vall"]}}}, "splits.all is made of other splits.*: train"),
    ({"splits": {"train": FILES, "all": {"of": ["train", "all"]}}}, "splits.all is made of other splits"),
    ({"splits": {"train": FILES, "all": {"of": ["train", "train"]}}}, "each once"),
    ({"splits": {"train": FILES, "all": {"of": ["train", "val"], "expected": 3}}}, "'of' stands alone"),
    ({"crops_px": {"gald": 0}}, "crops_px.gald = 0"),
    ({"folder": "../x"}, "folder = "),
    ({"name": "Tiny Set"}, "name = "),
    ({"title": ""}, "title = "),
]


@pytest.mark.parametrize(("changes", "says"), FAULTS, ids=[str(i) for i in range(len(FAULTS))])
def test_a_fault_is_named(changed_card: Callable[..., dict[str, object]], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        card.from_dict(changed_card(**changes), "tiny.toml")


def test_a_generated_set_has_no_label_coding(changed_card: Callable[..., dict[str, object]]) -> None:
    drawn = {"generated": {"seed": 0, "height": 32, "width": 32}, "splits": {"train": {"count": 3}}}
    assert card.from_dict(changed_card(**drawn)).expected("train") == 3
    with pytest.raises(UsageError, match=r"draws its labels: leave \[labels\] out"):
        card.from_dict(changed_card(**drawn, labels={"shift": 1}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name = \n", "not TOML.*line 1"),
        (b"name = 'a'\nname = 'b'\n", "not TOML.*overwrite"),
        (b"\x89PNG\xff\xfe", "not UTF-8"),
        ("name = 'a'".encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbfname = 'a'", "not TOML"),
        (b"", "name.*Field required"),
    ],
)
def test_a_file_that_is_no_card(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        card.load(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    for name in ("none.toml", "folder.toml"):
        with pytest.raises(UsageError, match="cannot read the card"):
            card.load(tmp_path / name)

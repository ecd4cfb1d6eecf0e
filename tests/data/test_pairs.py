"""Pairs: image and mask find each other, and whatever stands alone is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_sets import make_card, put_pair

from rayseg.data import images, pairs
from rayseg.data.labels import Coding
from rayseg.errors import DataError, UsageError


def test_pairs_are_sorted_and_matched(files: Path) -> None:
    found = pairs.find(make_card(), files)
    assert {split: [pair.key for pair in members] for split, members in found.items()} == {
        "train": [f"a{i:03d}" for i in range(6)],
        "val": [f"b{i:03d}" for i in range(3)],
    }
    assert all(Path(pair.image).name == Path(pair.mask).name for members in found.values() for pair in members)


def test_a_star_may_stand_for_a_folder_and_a_part_of_a_name(tmp_path: Path) -> None:
    for name in ("left/ulm/ulm_1_left.jpg", "left/bonn/bonn_1_left.jpg", "fine/ulm/ulm_1_fine.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "fine/bonn").mkdir()
    (tmp_path / "fine/bonn/bonn_1_fine.png").touch()
    split = {"images": "left/*/*_left.jpg", "masks": "fine/*/*_fine.png"}
    found = pairs.find(make_card(splits={"train": split}), tmp_path)["train"]
    assert [(pair.key, Path(pair.mask).name) for pair in found] == [
        ("bonn_bonn_1", "bonn_1_fine.png"),
        ("ulm_ulm_1", "ulm_1_fine.png"),
    ]


def test_keys_are_what_webdataset_reads_back_whole(files: Path) -> None:
    put_pair(files, "train", "frame.0001 (b).png", 50)
    assert pairs.find(make_card(), files)["train"][-1].key == "frame_0001__b_"


def test_an_image_without_mask_and_a_mask_without_image(files: Path) -> None:
    (files / "trainannot/a003.png").unlink()
    with pytest.raises(DataError, match=r"1 images without a mask .*train/a003.png"):
        pairs.find(make_card(), files)
    (files / "train/a003.png").unlink()
    (files / "train/a001.png").unlink()
    with pytest.raises(DataError, match=r"1 masks without an image .*trainannot/a001.png"):
        pairs.find(make_card(), files)


def test_two_files_that_come_to_one_key(files: Path) -> None:
    put_pair(files, "train", "a.000.png", 50)
    put_pair(files, "train", "a_000.png", 51)
    with pytest.raises(DataError, match=r"key a_000: .*a\.000\.png .*a_000\.png"):
        pairs.find(make_card(), files)


def test_a_key_in_two_splits(files: Path) -> None:
    put_pair(files, "val", "a002.png", 50)
    with pytest.raises(DataError, match=r"1 keys are in two splits, such as 'a002' in val and.*train"):
        pairs.find(make_card(), files)


def test_missing_folder_no_files_long_names(files: Path, tmp_path: Path) -> None:
    for root in (tmp_path / "none", "pipe:touch pwned", files / "train/a001.png"):
        with pytest.raises(DataError, match=r"no such folder .*: --root names"):
            pairs.find(make_card(), root)
    with pytest.raises(DataError, match=r"missing folder .*none.*has to hold none/\*\.png"):
        pairs.find(make_card(splits={"train": {"images": "none/*.png", "masks": "trainannot/*.png"}}), files)
    with pytest.raises(DataError, match="no file"):
        pairs.find(make_card(splits={"train": {"images": "train/*.jpg", "masks": "trainannot/*.png"}}), files)
    put_pair(files, "train", "x" * 91 + ".png", 50)
    with pytest.raises(DataError, match="key of 91"):
        pairs.find(make_card(), files)


def listed(files: Path, **lists: str) -> Path:
    for name, text in lists.items():
        (files / f"{name}.txt").write_text(text)
    return files


SPLIT = {"images": "train/*.png", "masks": "trainannot/*.png"}


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ({"lists": ["few.txt"]}, ["a001", "a004"]),
        ({"lists": ["few.txt", "more.txt"]}, ["a000", "a001", "a004"]),
        ({"without": ["few.txt"]}, ["a000", "a002", "a003", "a005"]),
        ({"lists": ["more.txt"], "without": ["few.txt"]}, ["a000"]),
        ({"ranges": [["a001", "a002"], ["a005", "z"]]}, ["a001", "a002", "a005"]),
        ({"ranges": [["a001", "a003"]], "without": ["few.txt"]}, ["a002", "a003"]),
    ],
)
def test_names_in_lists_and_ranges(files: Path, names: dict[str, object], keys: list[str]) -> None:
    listed(files, few="a004  1\n\na001 -1\r\n", more="a000\na001\n")
    found = pairs.find(make_card(splits={"train": SPLIT | names}), files)["train"]
    assert [pair.key for pair in found] == keys


def test_a_list_that_an_editor_began_with_a_mark(files: Path) -> None:
    (files / "few.txt").write_text("\ufeffa001\n", "utf-8")
    found = pairs.find(make_card(splits={"train": SPLIT | {"lists": ["few.txt"]}}), files)["train"]
    assert [pair.key for pair in found] == ["a001"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a001\na007\na008\n", r"2 names of the list have no file, such as a007 .*train/\*\.png"),
        ("\n \n", r"the list is empty .*few\.txt"),
        ("../../a001\n", r"1 names of the list have no file, such as \.\./\.\./a001"),
        ("a001.png\na002.png\n", r"2 names .*such as a001\.png .*what \* stands for, without extension"),
        ("\udce9t\xe9", r"not UTF-8 text .*few\.txt"),
    ],
)
def test_a_list_that_does_not_fit(files: Path, text: str, says: str) -> None:
    (files / "few.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=says):
        pairs.find(make_card(splits={"train": SPLIT | {"lists": ["few.txt"]}}), files)


def test_a_missing_list_is_named(files: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the list.*none\.txt"):
        pairs.find(make_card(splits={"train": SPLIT | {"without": ["none.txt"]}}), files)
    (files / "none.txt").mkdir()
    with pytest.raises(DataError, match=r"cannot read the list.*none\.txt"):
        pairs.find(make_card(splits={"train": SPLIT | {"without": ["none.txt"]}}), files)


def test_an_image_of_a_list_without_its_mask(files: Path) -> None:
    listed(files, few="a001\na002\n")
    (files / "trainannot/a001.png").unlink()
    with pytest.raises(DataError, match=r"1 names of the list have no file, such as a001 .*trainannot"):
        pairs.find(make_card(splits={"train": SPLIT | {"lists": ["few.txt"]}}), files)


def test_an_image_in_two_splits_by_their_lists(files: Path) -> None:
    listed(files, few="a001\n", more="a001\na002\n")
    splits = {"train": SPLIT | {"lists": ["more.txt"]}, "val": SPLIT | {"lists": ["few.txt"]}}
    with pytest.raises(DataError, match="1 keys are in two splits, such as 'a001' in val and"):
        pairs.find(make_card(splits=splits), files)


def test_a_split_made_of_others_has_no_pairs_of_its_own(files: Path) -> None:
    val = {"images": "val/*.png", "masks": "valannot/*.png"}
    both = make_card(splits={"all": {"of": ["train", "val"]}, "train": SPLIT, "val": val})
    assert {split: len(members) for split, members in pairs.find(both, files).items()} == {"train": 6, "val": 3}
    how = {"seed": 3, "height": 32, "width": 48}
    drawn = make_card(generated=how, splits={"b": {"count": 1}, "a": {"count": 1}, "all": {"of": ["a", "b"]}})
    assert pairs.find(drawn, None).keys() == {"a", "b"}


@pytest.mark.parametrize("what", ["scandir", "glob"])
def test_a_folder_that_is_closed_to_us(files: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """It is not taken for an empty one, whoever asks."""

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*((pairs.os, "scandir") if what == "scandir" else (Path, "glob")), closed)
    with pytest.raises(DataError, match=r"cannot read the folder: Permission denied .*train"):
        pairs.find(make_card(), files)
    assert "cannot read the folder" in str(pairs.survey(make_card(), files)["val"])


def test_a_survey_counts_what_is_there_and_says_what_is_not(files: Path) -> None:
    assert pairs.survey(make_card(), files) == {"train": 6, "val": 3}
    (files / "valannot/b001.png").unlink()
    said = pairs.survey(make_card(), files)
    assert said["train"] == 6
    assert str(said["val"]) == "val: 1 images without a mask (val/b001.png)"


def test_a_root_for_the_wrong_kind_of_card(files: Path) -> None:
    drawn = make_card(generated={"seed": 3, "height": 32, "width": 48}, splits={"train": {"count": 2}})
    with pytest.raises(UsageError, match="--root"):
        pairs.find(make_card(), None)
    with pytest.raises(UsageError, match="--root"):
        pairs.find(drawn, files)


def test_a_drawn_split_does_not_depend_on_the_others_length() -> None:
    def masks(train: int) -> list[bytes]:
        splits = {"train": {"count": train}, "val": {"count": 2}}
        card = make_card(generated={"seed": 3, "height": 32, "width": 48}, splits=splits)
        return [pair.load()[1] for pair in pairs.find(card, None)["val"]]

    short, long = masks(1), masks(4)
    assert short == long
    assert images.decode_mask(short[0], "drawn").shape == (32, 48)
    assert not np.array_equal(short[0], short[1])


def test_a_file_that_cannot_be_stored(tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(DataError, match="at most 64 MiB"):
        pairs.Pair("big", big, big, Coding(make_card())).load()
    with pytest.raises(DataError, match="cannot read"):
        pairs.Pair("none", tmp_path / "none.png", big, Coding(make_card())).load()

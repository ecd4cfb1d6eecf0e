"""Pairs: image and mask find each other, and whatever stands alone is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_sets import make_card, put_pair

from rayseg.data import images, pairs
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
    with pytest.raises(DataError, match=r"key 'a002' is in val and.*train"):
        pairs.find(make_card(), files)


def test_missing_folder_no_files_long_names(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing folder .*none"):
        pairs.find(make_card(), tmp_path / "none")
    with pytest.raises(DataError, match="missing folder"):
        pairs.find(make_card(), "pipe:touch pwned")
    with pytest.raises(DataError, match="no file"):
        pairs.find(make_card(splits={"train": {"images": "train/*.jpg", "masks": "trainannot/*.png"}}), files)
    put_pair(files, "train", "x" * 91 + ".png", 50)
    with pytest.raises(DataError, match="key of 91"):
        pairs.find(make_card(), files)


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
        pairs.Pair("big", big, big).load()
    with pytest.raises(DataError, match="cannot read"):
        pairs.Pair("none", tmp_path / "none.png", big).load()

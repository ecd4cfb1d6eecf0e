"""`rayseg cards`: every card is listed, and what is found of a data set is what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_sets import make_card, make_files, make_layout

from rayseg import recipe
from rayseg.cli import cards
from rayseg.data import card, catalogue, pairs
from rayseg.errors import DataError, UsageError


def called(*arguments: str, data: str = "") -> list[str]:
    done = CliRunner().invoke(cards, arguments, env={"RAYSEG_DATA": data} if data else {}, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return str(done.output).splitlines()


def test_every_card_has_its_line() -> None:
    lines = called()
    assert [line.split()[0] for line in lines[1:-1]] == card.names()
    assert any(line.split()[:6] == ["voc_aug", "21", "train", "10582,", "voc", "1464,"] for line in lines)
    assert "RAYSEG_DATA" in lines[-1]


@pytest.mark.parametrize("by_variable", [True, False])
def test_what_lies_below_a_root_is_told(tmp_path: Path, by_variable: bool) -> None:
    make_layout(card.load("cityscapes"), tmp_path / "cityscapes")
    make_files(tmp_path / "camvid", 367, 101)
    lines = called(data=str(tmp_path)) if by_variable else called("--root", str(tmp_path))
    told = {line.split()[0]: line for line in lines}
    assert told["camvid"].endswith("  train 367, val 101")
    assert told["cityscapes"].endswith("  train 2 of 2975, val 2 of 500")
    assert told["cityscapes_coarse"].endswith("leftImg8bit/train_extra)")
    assert "fine 2 of 2975, val 2 of 500, coarse: missing folder" in told["cityscapes_coarse"]
    assert told["ade20k"].endswith("  no folder ade20k")
    assert told["scenes"].endswith("  drawn, needs no files")


def test_one_card_is_told_whole(tmp_path: Path) -> None:
    make_layout(card.load("cityscapes"), tmp_path / "cityscapes")
    text = "\n".join(called("cityscapes", "--root", str(tmp_path)))
    loaded = card.load("cityscapes")
    for said in (
        loaded.title,
        loaded.licence,
        loaded.home,
        "train + val",
        "gald 832x832",
        "2 of 2975",
        "gald/cityscapes",
    ):
        assert said in text


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipes_data_set_has_a_card_and_its_splits(name: str) -> None:
    known = recipe.load(name)
    data = known.run.get("data", {})
    splits = card.load(known.dataset).splits
    assert {data.get("train_split", "train"), data.get("val_split", "val")} <= splits.keys()


def test_the_template_is_a_card_that_works(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("\n".join(called("--template")))
    loaded = card.load(mine)
    assert loaded == card.load("folder")
    make_layout(loaded, tmp_path / "raw")
    assert set(pairs.find(loaded, tmp_path / "raw")) == {"train", "val"}


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        called("--root", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="did you mean 'camvid'"):
        called("camvd")
    for arguments in (("--template", "camvid"), ("--template", "--root", str(tmp_path))):
        with pytest.raises(UsageError, match="--template takes nothing"):
            called(*arguments)
    assert called("--template", data=str(tmp_path))


def test_the_folder_of_all_sets_may_be_that_of_the_set(files: Path) -> None:
    tiny = make_card(folder=files.name)
    assert catalogue.found(tiny, files) == catalogue.found(tiny, files.parent) == "train 6, val 3"
    assert catalogue.found(make_card(folder="other"), files) == "no folder other"


def test_lists_are_told(tmp_path: Path) -> None:
    assert "named in VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt" in "".join(called("voc"))


def test_a_number_that_nobody_expects_is_just_a_number(files: Path) -> None:
    tiny = make_card(folder=files.name)
    assert catalogue.found(tiny, files.parent) == "train 6, val 3"

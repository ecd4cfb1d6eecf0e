"""The contract of every card: a tiny set in its layout becomes shards that read back as the labels that were meant."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_sets import make_layout, make_mask, put_mask, stored_by

from rayseg.data import card, open_shards, pairs, shards, summary
from rayseg.data.card import Card
from rayseg.errors import DataError
from rayseg.schema import parse, to_dict

FROM_FILES = [name for name in card.names() if card.load(name).generated is None]
BY_VALUE = [name for name in FROM_FILES if card.load(name).labels.unknown == "refuse"]


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_tiny_set_in_its_layout_reads_back(name: str, tmp_path: Path) -> None:
    loaded = card.load(name)
    made = make_layout(loaded, tmp_path / "raw")
    report = shards.write(loaded, tmp_path / "raw", tmp_path / "out")
    assert report.samples == {split: len(samples) for split, samples in made.items()}
    shards.verify(tmp_path / "out")
    for split, samples in made.items():
        found = {sample.key: sample.mask for sample in open_shards(tmp_path / "out", split)}
        assert found.keys() == samples.keys()
        for key, labels in samples.items():
            np.testing.assert_array_equal(found[key], labels)
    told = {f"{s}: {len(k)} samples where the card expects {loaded.splits[s].expected}" for s, k in made.items()}
    assert set(report.warnings) == (told if name != "folder" else set()), "a mismatch is said, and nothing else"
    sums = summary.summary(tmp_path / "out").splits
    assert {split: sums[split].samples for split in made} == report.samples


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_split_made_of_others_is_theirs(name: str, tmp_path: Path) -> None:
    loaded = card.load(name)
    made = make_layout(loaded, tmp_path / "raw")
    shards.write(loaded, tmp_path / "raw", tmp_path / "out")
    for split, of in ((split, spec.of) for split, spec in loaded.splits.items() if spec.of):
        keys = [sample.key for sample in open_shards(tmp_path / "out", split)]
        assert sorted(keys) == sorted(key for one in of for key in made[one])


@pytest.mark.parametrize("name", BY_VALUE)
def test_a_value_that_no_class_has_is_named_with_its_file(name: str, tmp_path: Path) -> None:
    loaded = card.load(name)
    make_layout(loaded, tmp_path, samples=1)
    pair = pairs.find(loaded, tmp_path)["val"][0]
    known = {value for values in stored_by(loaded).of_label.values() for value in values}
    stranger = (
        next(v for v in range(255) if v not in known | set(stored_by(loaded).ignored))
        if name != "pascal_context"
        else 460
    )
    _, coded = make_mask(loaded, 3)
    coded[4, 5:8] = stranger
    put_mask(Path(pair.mask), coded, loaded.labels.variable)
    with pytest.raises(DataError, match=rf"(value|label) {stranger}.*{Path(pair.mask).name}"):
        shards.write(loaded, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_mask_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    loaded = card.load(name)
    make_layout(loaded, tmp_path)
    mask = Path(pairs.find(loaded, tmp_path)["val"][1].mask)
    mask.unlink()
    with pytest.raises(DataError, match=r"no file|without a mask|have no file"):
        pairs.find(loaded, tmp_path)


def test_a_drawn_card_reads_back(tmp_path: Path) -> None:
    short = to_dict(card.load("scenes")) | {"splits": {"train": {"count": 2}, "val": {"count": 1}}}
    report = shards.write(parse(Card, short, "short"), None, tmp_path / "out")
    assert report.samples == {"train": 2, "val": 1}
    assert all(sample.mask.max() <= 11 for sample in open_shards(tmp_path / "out", "train"))


def test_camvid_files_in_both_layouts_give_the_same_labels(tmp_path: Path) -> None:
    """One mask, as SegNet's labels and in the authors' colours: the two cards agree."""
    segnet, full = card.load("camvid"), card.load("camvid_full")
    assert [(s.name, s.color) for s in segnet.classes] == [(s.name, s.color) for s in full.classes]
    assert segnet.ignore_index == full.ignore_index
    made = make_layout(full, tmp_path / "raw")
    shards.write(full, tmp_path / "raw", tmp_path / "full")
    for split in ("train", "val"):
        for key, labels in made[split].items():
            (tmp_path / "seg" / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "seg" / split / f"{key}.png"), np.zeros((*labels.shape, 3), np.uint8))
            put_mask(tmp_path / "seg" / f"{split}annot" / f"{key}.png", labels)
    shards.write(segnet, tmp_path / "seg", tmp_path / "small")
    for split in ("train", "val"):
        for one, other in zip(
            open_shards(tmp_path / "full", split), open_shards(tmp_path / "small", split), strict=True
        ):
            np.testing.assert_array_equal(one.mask, other.mask)


COUNTS = {  # the papers' own words: gald IV-A, dgcwnet 4.1, df_dam 4.1, dfn 4
    "cityscapes": {"train": 2975, "val": 500, "trainval": 3475},
    "cityscapes_coarse": {"train": 2975 + 19998, "coarse": 19998, "val": 500},
    "voc": {"train": 1464, "val": 1449, "trainval": 2913},
    "voc_aug": {"train": 10582, "val": 1449},
    "pascal_context": {"train": 4998, "val": 5105},
    "ade20k": {"train": 20210, "val": 2000},
    "cocostuff10k": {"train": 9000, "val": 1000},
    "cocostuff164k": {"train": 118287, "val": 5000},
    "camvid": {"train": 367, "val": 101},
    "camvid_full": {"train": 367, "val": 101, "test": 233, "trainval": 468},
    "camvid_test": {"train": 367, "val": 101, "test": 233, "trainval": 468},
}
CLASSES = {"cityscapes": 19, "cityscapes_coarse": 19, "voc": 21, "voc_aug": 21, "pascal_context": 60, "ade20k": 150}
CLASSES |= {"cocostuff10k": 171, "cocostuff164k": 171, "camvid": 11, "camvid_full": 11, "camvid_test": 11}


@pytest.mark.parametrize("name", COUNTS)
def test_classes_and_samples_are_the_papers(name: str) -> None:
    loaded = card.load(name)
    assert {split: loaded.expected(split) for split in COUNTS[name]} == COUNTS[name]
    assert loaded.num_classes == CLASSES[name]


def test_cards_of_one_set_agree() -> None:
    for one, other in (("cityscapes", "cityscapes_coarse"), ("voc", "voc_aug"), ("camvid", "camvid_test")):
        assert card.load(one).classes == card.load(other).classes
        assert card.load(one).labels.ignore == card.load(other).labels.ignore
    ten, all_of_it = card.load("cocostuff10k"), card.load("cocostuff164k")
    assert ten.class_names == all_of_it.class_names
    assert [s.values[0] - 1 for s in ten.classes if s.values] == [s.values[0] for s in all_of_it.classes if s.values]


def test_pascal_context_names_every_number_once() -> None:
    """labels.txt has 1..459; what is none of the 59 is background."""
    loaded = card.load("pascal_context")
    assert sorted(loaded.values) == list(range(460))
    assert sum(label > 0 for label in loaded.values.values()) == 59


def test_camvids_32_colours_all_have_a_meaning() -> None:
    assert len(card.load("camvid_full").colors) == 32


def test_vocs_colours_are_its_colour_map() -> None:
    """VOC's devkit spreads a label's bits over the channels, from the highest bit down."""
    for label, spec in enumerate(card.load("voc").classes):
        channels = [sum((label >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        assert spec.color == tuple(channels)

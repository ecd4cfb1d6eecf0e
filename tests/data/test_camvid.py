"""CamVid itself: the card finds its pairs, and the shards' class shares are those its readme states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayseg.data import card, open_shards, pairs, shards, summary

ROOT = Path(__file__).parents[3] / "shared/camvid"
SHARES = [0.1685, 0.2326, 0.0098, 0.3166, 0.0449, 0.0972, 0.0117, 0.0113, 0.0587, 0.0064, 0.0029, 0.0395]
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"the CamVid images are not in {ROOT}")


def test_the_card_finds_its_pairs() -> None:
    found = pairs.find(card.load("camvid"), ROOT)
    assert {split: len(members) for split, members in found.items()} == {"train": 367, "val": 101}


def test_its_shards(tmp_path: Path) -> None:
    report = shards.write(card.load("camvid"), ROOT, tmp_path / "out", workers=os.cpu_count() or 1)
    assert report.warnings == ()
    shards.verify(tmp_path / "out")
    train = summary.summary(tmp_path / "out").splits["train"]
    assert [*train.class_shares.values(), train.ignore_share] == pytest.approx(SHARES, abs=0.001)
    assert train.sizes == {"360x480": 367}
    first = open_shards(tmp_path / "out", "val").read(0)
    assert (first.image.shape, first.mask.shape, int(first.mask.max()) <= 11) == ((360, 480, 3), (360, 480), True)

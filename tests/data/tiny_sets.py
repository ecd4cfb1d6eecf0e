"""Small sets of files to make shards of."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rayseg.data import card
from rayseg.data.card import Card

CLASSES = 5
IGNORED = 9


def make_card(**changes: object) -> Card:
    """A card of five classes with a train and a val split of PNG files."""
    mapping = {
        "name": "tiny",
        "title": "Tiny",
        "licence": "CC0",
        "home": "nowhere",
        "classes": [{"name": f"class{i}", "color": [40 * i, 0, 255 - i]} for i in range(CLASSES)],
        "ignore_index": IGNORED,
        "splits": {
            "train": {"images": "train/*.png", "masks": "trainannot/*.png"},
            "val": {"images": "val/*.png", "masks": "valannot/*.png"},
        },
    }
    return card.from_dict(mapping | changes)


def put_pair(root: Path, split: str, name: str, seed: int, size: tuple[int, int] = (12, 16)) -> None:
    """Write a noise image and a mask that has every label."""
    rng = np.random.default_rng(seed)
    mask = rng.choice([*range(CLASSES), IGNORED], size).astype(np.uint8)
    mask.flat[: CLASSES + 1] = [*range(CLASSES), IGNORED]
    for folder, pixels in ((split, rng.integers(0, 256, (*size, 3), np.uint8)), (f"{split}annot", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / name), pixels)


def make_files(root: Path, train: int = 6, val: int = 3) -> Path:
    """Write a set of files: `train` and `val` pairs, the val ones of another size."""
    for i in range(train):
        put_pair(root, "train", f"a{i:03d}.png", i)
    for i in range(val):
        put_pair(root, "val", f"b{i:03d}.png", 1000 + i, (10, 14))
    return root

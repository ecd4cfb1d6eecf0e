"""Small sets of files to make shards of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from rayseg.data import card
from rayseg.data.card import Card
from rayseg.data.images import Pixels
from rayseg.data.split import Split

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


# --- a tiny set in a card's own layout ------------------------------------------------------------------------------


class Stored(NamedTuple):
    """What a mask may store, and the label it stands for: spelt out here, so that a card's coding has a second form."""

    of_label: dict[int, list[Any]]
    ignored: list[Any]


def stored_by(card: Card) -> Stored:
    """Read off the card what each label is stored as."""
    labels, by_color = card.labels, card.labels.coding == "color"
    of_label: dict[int, list[Any]] = {}
    for label, spec in enumerate(card.classes):
        usual: list[Any] = [spec.color] if by_color else [label + labels.shift]
        own = spec.colors if by_color else spec.values
        of_label[label] = list(own) if own else usual
    if by_color:
        return Stored(of_label, list(labels.ignore_colors or ()))
    return Stored(of_label, list(labels.ignore) if labels.ignore is not None else [card.ignore_index])


def make_mask(card: Card, seed: int, size: tuple[int, int] = (24, 28)) -> tuple[Pixels, NDArray[Any]]:
    """Draw labels and what a mask of them stores; everything that may be stored occurs, in a random order."""
    stored = stored_by(card)
    choices = [(label, one) for label, many in stored.of_label.items() for one in many]
    choices += [(card.ignore_index, one) for one in stored.ignored]
    pixels = size[0] * size[1]
    rng = np.random.default_rng(seed)
    order = rng.permutation([i % len(choices) for i in range(pixels)])
    labels = np.array([choices[i][0] for i in order], np.uint8).reshape(size)
    coded = np.array([choices[i][1] for i in order])
    return labels, coded.reshape(*size, *coded.shape[1:])


def put_mask(path: Path, coded: NDArray[Any], variable: str | None = None, palette: bool = False) -> None:
    """Write a mask by Pillow, or as SciPy writes MATLAB's files: a struct's field where the variable has a dot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        *structs, last = str(variable).split(".")
        content: dict[str, Any] = {last: coded.astype(np.float64 if coded.max() < 255 else np.uint16)}
        for name in reversed(structs):
            content = {name: {"Boundaries": np.ones((2, 1)), **content}}
        savemat(path, {"before": np.arange(9), **content}, do_compression=True)
        return
    image = Image.fromarray(coded.astype(np.uint8))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def make_layout(card: Card, root: Path, samples: int = 2) -> dict[str, dict[str, Pixels]]:
    """Write `samples` pairs of each split where the card looks for them, and give their labels by split and key.

    Lists name one that is not in the folder of a split's own only where `without` leaves it out again.
    """
    made: dict[str, dict[str, Pixels]] = {}
    for number, (name, split) in enumerate((n, s) for n, s in card.splits.items() if s.stored):
        stems = [f"{name}_{i}" for i in range(samples)]
        if split.ranges is not None:
            stems = [one for pair in split.ranges for one in pair]
        made[name] = {}
        for i, stem in enumerate(stems):
            made[name].update(_put_sample(card, root, split, stem, 100 * number + i))
        _put_lists(root, split, stems)
    for split in card.splits.values():
        _leave_out(card, root, split)
    return made


def _put_sample(card: Card, root: Path, split: Split, stem: str, seed: int) -> dict[str, Pixels]:
    labels, coded = make_mask(card, seed)
    image_pattern, mask_pattern = str(split.images), str(split.masks)
    stars = ["bonn"] * (image_pattern.count("*") - 1) + [stem]
    image, mask = (root / pattern.replace("*", "{}").format(*stars) for pattern in (image_pattern, mask_pattern))
    image.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(image), np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), np.uint8))
    put_mask(mask, coded, card.labels.variable, palette=seed % 2 == 1 and coded.ndim == 2)
    return {"_".join(stars): labels}


def _put_lists(root: Path, split: Split, stems: list[str]) -> None:
    for name in split.lists or ():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(stems) + "\n")


def _leave_out(card: Card, root: Path, split: Split) -> None:
    """Put a pair that only a list's or a range's absence keeps out, and name in the lists what `without` leaves out."""
    if split.lists or split.ranges:
        _put_sample(card, root, split, "~stranger", 7)
    for name in split.without or ():
        for stem in (root / name).read_text().split():
            _put_sample(card, root, split, stem, 8)
            with (root / (split.lists or ())[0]).open("a") as file:
                file.write(f"{stem}\n")

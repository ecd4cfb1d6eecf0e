"""A picture of what training makes of a data set: samples beside their crops in the first epochs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rayseg import config as configs
from rayseg import figures
from rayseg import recipe as recipes
from rayseg.config import RunConfig
from rayseg.data import plan
from rayseg.data.augment import Augmentation
from rayseg.data.reader import ShardSet, open_shards
from rayseg.errors import DataError
from rayseg.figures import Pair

SAMPLES, EPOCHS = 4, 5


def draw(shards: Path | str, path: Path, *, recipe: str, settings: Mapping[str, Any]) -> None:
    """Draw samples of a recipe's training split, spread evenly over it, as its epochs 0, 1, ... crop them.

    Raises:
        UsageError: the recipe or a setting is wrong.
        DataError: no such shards or split, a sample is damaged, or the picture cannot be written.
    """
    base = recipes.load(recipe)
    given = {"start_from": None, "data.shards": str(shards), **settings}  # no stage before it changes a crop
    config = configs.from_dict(configs.merged(base.run, given), recipe)
    opened = open_shards(shards, config.data.train_split, config.data.remote)
    rows = crops(opened, config)
    names = ["sample", *(f"epoch {epoch}" for epoch in range(EPOCHS))]
    title = f"{recipe}, crops of {config.augment.crop_px[0]}x{config.augment.crop_px[1]}, seed {config.seed}"
    try:
        figures.augmented(rows, names, opened.card, path, title=title)
    except OSError as error:
        raise DataError(f"cannot write the picture: {error.strerror}", path, "name a file that can be made") from None


def crops(shards: ShardSet, config: RunConfig) -> dict[str, list[Pair]]:
    """Give samples by key, each with what a run with this config trains on in its first epochs."""
    change = Augmentation(config.augment, shards.index.class_pixels, shards.ignore_index)
    rows = dict[str, list[Pair]]()
    spread = np.linspace(0, len(shards) - 1, min(SAMPLES, len(shards)))
    for position in sorted({int(place) for place in spread}):
        key, image, mask = shards.read(position)
        drawn = [plan.augmentation_rng(config.seed, epoch, key) for epoch in range(EPOCHS)]
        rows[key] = [(image, mask), *(change(position, image, mask, rng) for rng in drawn)]
    return rows

"""The picture of augmented samples: it shows what training sees, and the command that draws it says what is wrong."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from rayseg import cli, config
from rayseg.data import open_shards, plan
from rayseg.data.augment import Augmentation
from rayseg.data.loader import BatchLoader
from rayseg.errors import DataError, UsageError
from rayseg.train import preview

BASE = {
    "head": {"name": "fcn"},
    "seed": 3,
    "augment": {"crop_px": [40, 48], "color_jitter": 0.4, "blur": 0.5, "class_uniform": 0.5},
    "train": {"steps": 1, "batch": 4, "eval_every": 1},
}


def test_it_shows_what_training_sees(tiny_shards: Path) -> None:
    run = config.from_dict(config.merged(BASE, {"data.shards": str(tiny_shards)}))
    train = open_shards(tiny_shards, "train")
    rows = preview.crops(train, run)
    assert len(rows) == preview.SAMPLES
    transform = Augmentation(run.augment, train.index.class_pixels, train.ignore_index)
    seen = 0
    with BatchLoader(train, plan.make(len(train), 4, run.seed), transform=transform) as loader:
        for batch in islice(loader, preview.EPOCHS * len(train) // 4):
            epoch = batch.step * 4 // len(train)
            for key, image, mask in zip(batch.keys, batch.images, batch.masks, strict=True):
                if key in rows:
                    np.testing.assert_array_equal(rows[key][1 + epoch][0], image)
                    np.testing.assert_array_equal(rows[key][1 + epoch][1], mask)
                    seen += 1
    assert seen == preview.SAMPLES * preview.EPOCHS


def inspect(*arguments: str) -> Any:
    return CliRunner().invoke(cli.rayseg, ["inspect", *arguments], catch_exceptions=False, standalone_mode=False)


def test_the_command_draws_it(tiny_shards: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    inspect(str(tiny_shards), "--augmented", str(picture), "--recipe", "dfn/scenes", "--set", "augment.blur=0.5")
    pixels = cv2.imread(str(picture))
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    again = tmp_path / "b.png"
    inspect(str(tiny_shards), "--augmented", str(again), "--recipe", "dfn/scenes", "--set", "augment.blur=0.5")
    assert again.read_bytes() == picture.read_bytes()


def test_a_later_stage_needs_no_earlier_one_to_be_drawn(tiny_shards: Path, tmp_path: Path) -> None:
    inspect(str(tiny_shards), "--augmented", str(tmp_path / "a.png"), "--recipe", "dfn/voc_finetune")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["--set", "augment.blur=0.5"], UsageError, "ignored without --augmented"),
        (["--recipe", "dfn/scenes"], UsageError, "ignored without --augmented"),
        (["--augmented", "a.png", "--recipe", "dfn/sceens"], UsageError, "did you mean 'dfn/scenes'"),
        (["--augmented", "a.png", "--set", "augment.blurr=1"], UsageError, "did you mean 'blur'"),
        (["--augmented", "none/a.png"], DataError, "cannot write the picture"),
    ],
)
def test_what_is_wrong_is_said(
    tiny_shards: Path, tmp_path: Path, arguments: list[str], kind: type, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=says):
        inspect(str(tiny_shards), *arguments)
    assert not list(tmp_path.iterdir())

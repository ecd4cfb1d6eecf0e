"""On real frames: ASPP + LDv2 trained a fixed number of steps, against no training and one class everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rayseg import config as configs
from rayseg import recipe, segmenter
from rayseg.data import card as cards
from rayseg.data import open_shards, shards
from rayseg.metrics import ConfusionMatrix
from rayseg.tracking import NullTracker
from rayseg.train import evaluate
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

CAMVID = Path(__file__).parents[3] / "shared" / "camvid"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}"),
]


def test_trained_beats_untrained_and_the_majority_class(tmp_path):
    folder = tmp_path / "camvid"
    shards.write(cards.load("camvid"), CAMVID, folder, workers=2)
    plain = configs.merged(recipe.load("gald/camvid").run, {"data.shards": str(folder), "train.steps": 150})
    config = configs.from_dict(plain)
    runtime, val = LocalRuntime(tmp_path / "run", "cpu"), open_shards(folder, "val")

    majority = int(open_shards(folder, "train").index.class_pixels.sum(0)[:11].argmax())
    constant = ConfusionMatrix(11, val.ignore_index)
    for i in range(config.data.val_samples):
        mask = val.read(i).mask
        constant.update(np.full_like(mask, majority), mask)
    torch.manual_seed(config.seed)
    untrained = evaluate.evaluate(
        segmenter.build(config.model(11)), val, runtime, config=config, precision=torch.float32
    ).confusion.miou()
    summary = fit(config, runtime, NullTracker())
    print(f"mIoU on val: trained {summary.best_miou:.3f}, untrained {untrained:.3f}, majority {constant.miou():.3f}")
    assert summary.best_miou > 3 * max(untrained, constant.miou())
    assert summary.pixel_accuracy > constant.pixel_accuracy() + 0.2

"""What a run leaves for its reviewer, in a real spool; drawn by another process where its own died before that."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from rayseg.data import cursor
from rayseg.data.reader import open_shards
from rayseg.tracking.spool import SpoolTracker
from rayseg.train import hardest, review, sheets
from rayseg.train.evaluate import from_bytes
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

ALWAYS = {"per_class.csv", "confusion_matrix.png"}
IMAGES = {"hardest.jpg", "hardest.csv"}


def trained(config, run_dir):
    return fit(config, LocalRuntime(run_dir, "cpu"), SpoolTracker(run_dir), show=lambda _: None)


def handed_over(run_dir):
    return {path.name for path in (run_dir / "tracking" / "artifacts" / "review").iterdir()}


@pytest.mark.parametrize(("shown", "pictures"), [(0, set()), (1, IMAGES)])
def test_images_are_handed_over_only_where_some_were_kept(run_config, tmp_path, shown, pictures):
    summary = trained(run_config(train__shown_images=shown, train__steps=1, train__eval_every=1), tmp_path)
    assert summary is not None
    assert summary.status == "finished"
    assert handed_over(tmp_path) == ALWAYS | pictures
    with (tmp_path / "review" / "per_class.csv").open() as file:
        ious = [float(row["iou"]) for row in csv.DictReader(file) if row["iou"]]
    assert sum(ious) / len(ious) == pytest.approx(summary.best_miou, abs=1e-4)


def test_a_run_alone_shows_its_own_hardest_images_the_hardest_first(run_config, tmp_path):
    trained(run_config(train__shown_images=3), tmp_path)
    seen = from_bytes(review.best_commit(tmp_path).path / review.EVALUATION)
    assert sheets.listed(tmp_path / "review") == hardest.choose([seen.images], 3)
    with (tmp_path / "review" / "hardest.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = hardest.scores(seen.images)
    assert [float(row["miou"]) for row in rows] == pytest.approx(scores[sheets.listed(tmp_path / "review")], abs=1e-4)


def test_a_run_whose_process_was_killed_before_it_drew_has_the_same_pictures(run_config, tmp_path):
    trained(run_config(train__shown_images=3), tmp_path)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "review").iterdir()}
    shutil.rmtree(tmp_path / "review")
    shutil.rmtree(tmp_path / "tracking")
    (tmp_path / "summary.json").unlink()
    summary = review.adopt(tmp_path, SpoolTracker(tmp_path))
    assert summary is not None
    assert summary.status == "finished"
    assert {path.name: path.read_bytes() for path in (tmp_path / "review").iterdir()} == drawn
    assert handed_over(tmp_path) == ALWAYS | IMAGES


def test_a_trial_shows_what_its_sweep_chose_in_that_order(run_config, tmp_path):
    config = run_config(train__shown_images=2)
    shards = open_shards(config.data.shards, "val")
    chosen = {"positions": [4, 0, 2], "keys": list("abc"), "trials": ["t"], "data": cursor.digest(shards.index)}
    (tmp_path / "hardest.json").write_text(json.dumps(chosen))
    run_dir = tmp_path / "trials" / "t1"
    run_dir.mkdir(parents=True)
    trained(config, run_dir)
    assert sheets.listed(run_dir / "review") == [4, 0, 2]

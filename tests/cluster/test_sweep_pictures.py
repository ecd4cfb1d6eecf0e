"""The pictures of a whole sweep: the same hard images for every trial, its driver killed and resumed in between."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
from sweeping import ended, finish, folder, wait_for

from rayseg.data.reader import open_shards
from rayseg.train import hardest, review, sheets

SHORT = ("--name", "p", "--set", "train.steps=4", "--set", "train.shown_images=2", "--set", "head.dilation=1")


def best(path, key):
    """Read the arrays of a trial's best evaluation."""
    with np.load(review.best_commit(path / "trials" / key).path / "evaluation.npz") as arrays:
        return dict(arrays)


def plain_scores(arrays):
    """Write each image's mean IoU out."""
    scores = []
    for hits, truth, found in zip(arrays["image_hits"], arrays["image_truth"], arrays["image_found"], strict=True):
        ious = [int(h) / int(t + f - h) for h, t, f in zip(hits, truth, found, strict=True) if t + f - h]
        scores.append(sum(ious) / len(ious))
    return scores


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_choice(path, over):
    """Check that two images were chosen from the first two trials, as by hand; give them."""
    chosen = json.loads((path / "hardest.json").read_text())
    assert chosen["trials"] == list(over)[:2]
    scores = np.mean([plain_scores(best(path, key)) for key in chosen["trials"]], axis=0)
    assert sorted(scores)[:2] == pytest.approx([scores[p] for p in chosen["positions"]], abs=1e-12)
    return chosen


def check_trial(path, key, positions, val):
    """Check a trial's sheet against its best evaluation, and the masks that the driver predicted."""
    folder_, arrays = path / "trials" / key / "review", best(path, key)
    assert sheets.listed(folder_) == positions
    scores = plain_scores(arrays)
    shown = [float(row["miou"]) for row in table(folder_ / "hardest.csv")]
    assert shown == pytest.approx([scores[p] for p in positions], abs=1e-4)
    if (folder_ / "hardest.npz").exists():
        with np.load(folder_ / "hardest.npz") as masks:
            for p in positions:
                truth = val.read(p).mask
                hits = [int(((masks[str(p)] == c) & (truth == c)).sum()) for c in range(val.num_classes)]
                assert hits == arrays["image_hits"][p].tolist()
    handed_over = {file.name for file in (folder_.parent / "tracking" / "artifacts" / "review").iterdir()}
    assert handed_over >= {"hardest.jpg", "confusion_matrix.png", "per_class.csv"}


def plain_iou(arrays):
    counts = arrays["counts"]
    return [counts[c, c] / u if (u := counts[c].sum() + counts[:, c].sum() - counts[c, c]) else None for c in range(11)]


def check_difference(path, key, base, names):
    rows = {row["class"]: row for row in table(path / "trials" / key / "review" / "per_class_difference.csv")}
    assert {row["base"] for row in rows.values()} == {base}
    for name, mine, theirs in zip(names, plain_iou(best(path, key)), plain_iou(best(path, base)), strict=True):
        said = rows[name]["iou_difference"]
        if mine is None or theirs is None:
            assert said == ""
        else:
            assert float(said) == pytest.approx(mine - theirs, abs=1e-4)


def test_every_trial_shows_the_same_images_also_after_a_kill_and_a_resume(sweep, tmp_path, tiny_shards):
    path = folder(tmp_path, "p")
    first = sweep(*SHORT, "--concurrent", "1")
    wait_for(lambda: (path / "hardest.json").exists() or first.poll() is not None)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    chosen = check_choice(path, ended(path))
    assert len(ended(path)) < 3

    finish(sweep("--name", "p", "--resume", "--concurrent", "1"))
    assert json.loads((path / "hardest.json").read_text()) == chosen
    val = open_shards(str(tiny_shards), "val")
    keys = list(ended(path))
    assert len(keys) == 3
    for key in keys:
        check_trial(path, key, chosen["positions"], val)
    base = next(key for key in keys if not (path / "trials" / key / "review" / "per_class_difference.csv").exists())
    for key in keys:
        if key != base:
            check_difference(path, key, base, val.class_names)
    left = {file.name for file in (path / "tracking" / "artifacts" / "review").iterdir()}
    assert left == {"curves.png", "hardest.json", "hardest_best_and_base.jpg"}

    last = path / "trials" / keys[-1]
    shutil.rmtree(last / "review")
    (last / "summary.json").unlink()  # as if it had been killed before it drew
    (path / "hardest.json").write_text("{")
    finish(sweep("--name", "p", "--resume"))
    check_trial(path, keys[-1], chosen["positions"], val)
    assert hardest.read(path).positions == tuple(chosen["positions"]), "a damaged choice is made anew"

"""Sharding by Ray tasks: the bytes that threads write, one line for a fault, and on from where it was."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayseg.cluster import sharding
from rayseg.data import card as cards
from rayseg.data import shards
from rayseg.data.staging import Task
from rayseg.errors import DataError

CARD = """
name = "tiny"
title = "Tiny"
licence = "CC0"
home = "nowhere"
ignore_index = 9
classes = [{ name = "one", color = [1, 0, 0] }, { name = "two", color = [2, 0, 0] }]
splits.train = { images = "train/*.png", masks = "train_masks/*.png" }
splits.val = { images = "val/*.png", masks = "val_masks/*.png" }
"""


@pytest.fixture
def rayseg(tmp_path):
    """Run `rayseg shard` on the tiny set in a home of its own; give its exit code, stdout and stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW"))}
    environment = kept | {"RAYSEG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}

    def call(*arguments):
        command = [
            Path(sys.executable).with_name("rayseg"),
            "shard",
            tmp_path / "tiny.toml",
            "--root",
            tmp_path / "raw",
        ]
        words = [str(word) for word in (*command, *arguments)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=280)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def raw(tmp_path):
    """Three train and two val pairs."""
    (tmp_path / "tiny.toml").write_text(CARD)
    rng = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 2)):
        for folder in (split, f"{split}_masks"):
            (tmp_path / "raw" / folder).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            image, mask = rng.integers(0, 256, (12, 16, 3), np.uint8), rng.choice([0, 1, 9], (12, 16)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / f"raw/{split}/{split[0]}{i}.png"), image)
            cv2.imwrite(str(tmp_path / f"raw/{split}_masks/{split[0]}{i}.png"), mask)
    return tmp_path / "raw"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_ray_tasks_write_the_bytes_that_threads_write(rayseg, raw, tmp_path):
    """The val shard has a fault; the train shard is finished then, and a second command takes it over."""
    good = (raw / "val_masks/v1.png").read_bytes()
    cv2.imwrite(str(raw / "val_masks/v1.png"), np.full((12, 16), 5, np.uint8))
    code, out, err = rayseg("--out", tmp_path / "out", "--ray", "--workers", "2", "--image", "webp")
    lines = [line for line in err.splitlines() if not line.startswith("sharding ")]
    assert (code, out) == (3, ""), err
    assert lines[0].startswith(f"finished shards wait in {tmp_path}/.out."), err
    assert lines[1].startswith("error: "), err
    assert len(lines) == 2
    assert "mask has label 5" in lines[1]
    assert "v1.png" in lines[1]
    assert not (tmp_path / "out").exists()
    (raw / "val_masks/v1.png").write_bytes(good)
    report = shards.write(cards.load(tmp_path / "tiny.toml"), raw, tmp_path / "out", image="webp")
    assert report.adopted == 3
    shards.write(cards.load(tmp_path / "tiny.toml"), raw, tmp_path / "threads", image="webp")
    assert contents(tmp_path / "out") == contents(tmp_path / "threads")
    assert not list(tmp_path.glob(".out.*"))


def test_nothing_to_write_needs_no_ray(monkeypatch):
    """So what is wrong with the data is said before a cluster is asked for."""
    monkeypatch.setattr(sharding, "ray_session", None)
    assert list(sharding.crew(2)([], lambda done: None)) == []


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path):
    task = Task(tmp_path / "elsewhere", "train-000000.tar", "train", (), cards.load("scenes"), "keep", "")
    error = sharding._write(task)
    assert isinstance(error, DataError)
    assert "does not see it" in str(error)
    assert "storage that every node has" in str(error)

"""A slot of two workers keeps its processes over jobs that end, are given up or fail; what is stuck it replaces."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayseg.data import plan
from rayseg.data.reader import open_shards
from rayseg.train.review import read_summary


def damage_for_rank_1(shards, out):
    """Copy shards, with one sample damaged that rank 1 alone reads, in its second batch."""
    shutil.copytree(shards, out)
    train = open_shards(out, "train")
    victim = plan.positions(plan.make(len(train), 4, 0, rank=1, world=2), 1)[0].sample
    row = train.index.row(victim)
    path = out / row.shard
    data = bytearray(path.read_bytes())
    data[row.image_offset + row.image_size // 2] ^= 1
    path.write_bytes(data)
    train.close()
    return row.key


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_slot_through_all_that_can_happen_to_a_job(tiny_shards, tmp_path):
    victim = damage_for_rank_1(tiny_shards, tmp_path / "damaged")
    script = Path(__file__).with_name("slot_story.py")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW"))}
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs"), str(tiny_shards), str(tmp_path / "damaged")],
        env=kept | {"RAYSEG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    lines = [line.split(" ", 2) for line in told.stdout.splitlines() if line.startswith("story ")]
    story = {name: json.loads(fields) for _, name, fields in lines}
    first, left, alike, second, alone, killed = (
        story[name] for name in ("first", "left", "alike", "second", "alone", "killed")
    )
    runs = tmp_path / "runs"

    assert (first["steps"], first["over"]) == ([2, 4, 6, 8], "finished")
    assert len(first["pids"]) == 2
    assert left["steps"] == [2]
    summary = read_summary(runs / "left")
    assert (summary.status, summary.step) == ("stopped", 2)
    assert alike["over"] == "failed"
    assert "lower optim.lr" in alike["fault"]
    assert alike["note"] == ""
    assert (second["steps"], second["over"]) == ([2, 4, 6, 8], "finished")
    # Given up, failed on all ranks: the workers are the same ones, and so is what they compute.
    assert first["pids"] == left["pids"] == alike["pids"] == second["pids"]
    assert weights(runs / "first") == weights(runs / "second")

    assert alone["over"] == "failed"
    assert victim in alone["fault"]
    assert "rank 0 was stuck in it: all workers start again" in alone["note"]
    assert alone["note"] in (runs / "alone" / "log.txt").read_text()

    assert (sorted(set(killed["steps"])), killed["over"]) == ([2, 4, 6, 8], "finished")
    assert not set(killed["pids"]) & set(first["pids"])
    assert "resuming at step 2/8" in (runs / "killed" / "log.txt").read_text()
    assert weights(runs / "killed") == weights(runs / "first")
    assert story["closed"]["pids"] == []


def weights(run_dir):
    """Give the hash of a run's last weights."""
    newest = sorted((run_dir / "commits").glob("step-*"))[-1]
    return json.loads((newest / "MANIFEST.json").read_text())["files"]["model.safetensors"]["sha256"]

"""Commits: whole or not there at all."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from rayseg.errors import CheckpointError
from rayseg.train import commit


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def write(run_dir, step, value=None):
    net = model()
    if value is not None:
        nn.init.constant_(net[0].weight, value)
    return commit.write(run_dir, step, {"model": dict(net.state_dict())}, {"value": value})


def test_what_is_written_is_what_is_read(tmp_path):
    write(tmp_path, 7, 0.25)
    found = commit.newest(tmp_path)
    net = model()
    commit.load_model(found, net)
    assert (found.step, found.state["value"]) == (7, 0.25)
    assert net[0].weight.eq(0.25).all()


def test_momentum_survives(tmp_path):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    commit.write(tmp_path, 1, {"optimizer": commit.optimizer_tensors(optimizer, net)}, {})
    other = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    commit.load_optimizer(commit.newest(tmp_path), other, net)
    for p in net.parameters():
        assert torch.equal(other.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"])


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damage_is_found_and_the_previous_commit_used(tmp_path, name, damage):
    write(tmp_path, 1, 1.0)
    path = write(tmp_path, 2, 2.0) / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-3]), "grow": bytes(data) + b"x"}[damage])
    lines = []
    assert commit.newest(tmp_path, warn=lines.append).step == 1
    assert len(lines) == 1
    assert "step-00000002" in lines[0]


def test_a_run_never_starts_again_from_0_by_itself(tmp_path):
    (write(tmp_path, 1, 1.0) / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="none of 1 commits is whole"):
        commit.newest(tmp_path, warn=lambda line: None)


def test_no_commit_yet(tmp_path):
    assert commit.newest(tmp_path) is None


def test_another_model_is_refused_with_names_and_count(tmp_path):
    write(tmp_path, 1, 1.0)
    with pytest.raises(CheckpointError, match=r"^2 weights do not fit the model: 0\.bias, 0\.weight"):
        commit.load_model(commit.newest(tmp_path), nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(8)))


def test_other_model_missing_keys(tmp_path):
    write(tmp_path, 1, 1.0)
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        commit.load_model(commit.newest(tmp_path), nn.Sequential(nn.Conv2d(3, 8, 3)))


def test_prune_keeps_the_last_two_and_the_best(tmp_path):
    for step in range(1, 7):
        write(tmp_path, step)
    (tmp_path / "commits" / ".building-00000009-1").mkdir()
    commit.prune(tmp_path, best=2)
    assert [p.name for p in commit.commits(tmp_path)] == [f"step-0000000{n}" for n in (2, 5, 6)]
    assert not list((tmp_path / "commits").glob(".*"))


def test_full_disk_leaves_the_last_commit_whole(tmp_path, monkeypatch):
    before = {p.name: p.read_bytes() for p in write(tmp_path, 1, 1.0).iterdir()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write(tmp_path, 2, 2.0)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in commit.newest(tmp_path).path.iterdir()} == before
    assert not list((tmp_path / "commits").glob(".*"))


WRITER = """
import sys, torch
from pathlib import Path
from rayseg.train import commit
step = 0
while True:
    step += 1
    weights = {str(i): torch.full((300, 1000), float(step)) for i in range(4)}
    commit.write(Path(sys.argv[1]), step, {"model": weights}, {"value": step})
    commit.prune(Path(sys.argv[1]))
    print(step, flush=True)
"""


def test_a_killed_writer_leaves_a_commit_that_loads(tmp_path):
    """SIGKILL at random moments; the newest whole commit is the last or the one being finished, never torn."""
    rng = random.Random(0)
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
            said = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.15))
            os.kill(writer.pid, signal.SIGKILL)
            said = max([said, *(int(line) for line in writer.stdout.read().split())])
        found = commit.newest(folder, warn=lambda line: pytest.fail(line))
        assert found.step in (said, said + 1)
        assert commit.tensors(found, "model")["3"].eq(found.step).all()


def test_unknown_format_is_named(tmp_path):
    path = write(tmp_path, 1) / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        commit.read(path.parent)


def test_atomic_text(tmp_path):
    commit.write_atomically(tmp_path / "a.json", "1")
    commit.write_atomically(tmp_path / "a.json", "2")
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"

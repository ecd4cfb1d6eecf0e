"""Commits: whole or not there at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rayseg import durable, optim
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
    commit.write(tmp_path, 1, {"optimizer": optim.state_tensors(optimizer, net)}, {})
    other = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    optim.load_state(commit.tensors(commit.newest(tmp_path), "optimizer"), other, net)
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


def test_unknown_format_is_named(tmp_path):
    path = write(tmp_path, 1) / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        commit.read(path.parent)


def test_atomic_text(tmp_path):
    durable.write_atomically(tmp_path / "a.json", "1")
    durable.write_atomically(tmp_path / "a.json", "2")
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"


# --- any bit of any file ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_commits(tmp_path_factory):
    """Steps 1 and 2 with every kind of file that a run commits."""
    run_dir = tmp_path_factory.mktemp("two")
    weights, momentum = ({"a.weight": torch.randn(5, 7), "n": torch.tensor(3)} for _ in range(2))
    for step in (1, 2):
        groups = {"model": weights, "optimizer": momentum, "ema": weights, "scaler": {"scale": torch.tensor(2.0)}}
        state = {"progress": {"miou": 0.25, "best_step": 1}, "config": {"seed": 0}}
        commit.write(run_dir, step, groups, state, {commit.EVALUATION: bytes(range(200))})
    return run_dir


def found_with(run_dir, name, data):
    """Say which step is found with other bytes in a file of the newest commit, and in how many lines."""
    path, lines = commit.path_of(run_dir, 2) / name, []
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        found = commit.newest(run_dir, warn=lines.append)
    finally:
        path.write_bytes(before)
    assert all("step-00000002" in line and "\n" not in line for line in lines)
    return found.step, len(lines)


FILES = ["model", "optimizer", "ema", "scaler"]
FILES = [f"{name}.safetensors" for name in FILES] + ["evaluation.npz", "state.json", "MANIFEST.json"]


@settings(deadline=None, max_examples=400)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_found(two_commits, name, place, bit):
    data = bytearray((commit.path_of(two_commits, 2) / name).read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    assert found_with(two_commits, name, bytes(data)) == (1, 1)


def test_every_bit_of_the_manifest_counts(two_commits):
    """It has no hash of its own: each of its bytes has to be one that something is compared with."""
    data = (commit.path_of(two_commits, 2) / "MANIFEST.json").read_bytes()
    for place in range(0, len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert found_with(two_commits, "MANIFEST.json", bytes(changed)) == (1, 1), place


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(FILES), left=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_found(two_commits, name, left):
    data = (commit.path_of(two_commits, 2) / name).read_bytes()
    assert found_with(two_commits, name, data[: int(left * len(data))]) == (1, 1)


def test_a_file_that_was_not_written_with_it_is_found(tmp_path):
    write(tmp_path, 1)
    (write(tmp_path, 2) / "more.safetensors").write_bytes(b"x")
    lines = []
    assert commit.newest(tmp_path, warn=lines.append).step == 1
    assert "more.safetensors was not written with it" in lines[0]


def test_the_step_decides_and_no_clock(tmp_path):
    """Times of files turned around, an hour in the future or long ago: the choice is the same."""
    for step, time_s in ((1, 4e9), (2, 1e9), (10, 0)):
        path = write(tmp_path, step)
        for each in (*path.iterdir(), path):
            os.utime(each, (time_s, time_s))
    assert commit.newest(tmp_path).step == 10
    commit.prune(tmp_path)
    assert [path.name for path in commit.commits(tmp_path)] == ["step-00000002", "step-00000010"]


def test_what_is_damaged_is_set_aside_and_what_is_unfinished_is_removed(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    (commit.path_of(tmp_path, 3) / "state.json").unlink()
    (tmp_path / "commits" / ".building-00000009-1").mkdir()
    found = commit.newest(tmp_path, warn=lambda line: None)
    commit.tidy(tmp_path, after=found.step)
    assert sorted(path.name for path in (tmp_path / "commits").iterdir()) == [
        "damaged-step-00000003",
        "step-00000001",
        "step-00000002",
    ]
    write(tmp_path, 3)  # the step is done again
    commit.prune(tmp_path)
    assert commit.newest(tmp_path, warn=lambda line: pytest.fail(line)).step == 3


def test_with_all_commits_set_aside_a_run_does_not_start_again_either(tmp_path):
    path = write(tmp_path, 1)
    path.rename(path.with_name("damaged-step-00000001"))
    with pytest.raises(CheckpointError, match="none of 1 commits is whole"):
        commit.newest(tmp_path, warn=lambda line: None)


# --- a run that begins with another one's commit ----------------------------------------------------------------------

CONFIG = {"seed": 0, "train": {"batch": 4}, "optim": {"lr": 0.1}}


def donor(run_dir, step, *, judged=True, batch=4):
    progress = {"step": step, "miou": 0.3, "best_miou": 0.9, "best_step": 1, "seconds": 50.0, "fingerprint": "f"}
    cursor = {"step": step, "epoch": 0, "offset": step * 4, "samples": 24, "global_batch": 4, "seed": 0, "data": "d"}
    state = {"progress": progress, "cursor": cursor, "config": CONFIG, "report": {"step": step}}
    net = model()
    momentum = {name: torch.full_like(p, 0.5) for name, p in net.named_parameters()}
    files = {commit.EVALUATION: b"counts"} if judged else {}
    return commit.write(run_dir, step, {"model": dict(net.state_dict()), "optimizer": momentum}, state, files)


def test_a_run_begins_with_a_donors_commit(tmp_path):
    source = donor(tmp_path / "donor", 8)
    config = CONFIG | {"optim": {"lr": 0.5}}
    path = commit.adopt(tmp_path / "donor", 8, tmp_path / "new", {"config": config})
    found = commit.newest(tmp_path / "new", warn=lambda line: pytest.fail(line))
    assert (found.path, found.step, found.state["config"]) == (path, 8, config)
    for name in ("model.safetensors", "optimizer.safetensors", commit.EVALUATION):
        assert (path / name).stat().st_ino == (source / name).stat().st_ino  # no bytes of its own
    progress = found.state["progress"]
    assert (progress["best_step"], progress["best_miou"], progress["seconds"]) == (8, 0.3, 0.0)
    assert "report" not in found.state
    assert commit.read(source).state["config"] == CONFIG
    shutil.rmtree(tmp_path / "donor")  # a sweep may be tidied up
    assert commit.tensors(commit.newest(tmp_path / "new"), "optimizer")["0.weight"].eq(0.5).all()


@pytest.mark.parametrize("gone", ["pruned", "damaged"])
def test_where_the_step_is_gone_the_donors_newest_commit_is_taken(tmp_path, gone):
    for step in (4, 8, 12):
        donor(tmp_path / "donor", step, judged=step < 12)
    path = commit.path_of(tmp_path / "donor", 4)
    shutil.rmtree(path) if gone == "pruned" else (path / "model.safetensors").write_bytes(b"")
    made = commit.adopt(tmp_path / "donor", 4, tmp_path / "new", {"config": CONFIG})
    assert made.name == "step-00000012"
    assert commit.read(made).state["progress"]["best_step"] == 0  # that commit has no evaluation to be the best


def test_a_donor_without_a_whole_commit_is_refused(tmp_path):
    (donor(tmp_path / "donor", 4) / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="no whole commit"):
        commit.adopt(tmp_path / "donor", 4, tmp_path / "new", {"config": CONFIG})
    assert not (tmp_path / "new").exists()


def test_another_batch_stands_elsewhere_in_the_stream(tmp_path):
    donor(tmp_path / "donor", 8)
    config = CONFIG | {"train": {"batch": 6}, "seed": 3}
    cursor = commit.read(commit.adopt(tmp_path / "donor", 8, tmp_path / "new", {"config": config})).state["cursor"]
    assert (cursor["epoch"], cursor["offset"], cursor["global_batch"], cursor["seed"]) == (2, 0, 6, 3)


def test_the_best_weights_are_the_averaged_ones_where_there_are_any(tmp_path):
    plain, averaged = ({"w": torch.full((2,), value)} for value in (1.0, 2.0))
    commit.write(tmp_path, 1, {"model": plain}, {})
    assert commit.best_weights(commit.newest(tmp_path))["w"].eq(1).all()
    commit.write(tmp_path, 2, {"model": plain, "ema": averaged}, {})
    assert commit.best_weights(commit.newest(tmp_path))["w"].eq(2).all()


def test_a_commit_is_whole_and_synced_before_it_is_seen_and_its_name_is_synced_after(tmp_path, monkeypatch):
    """What no kill of a process can show: the order that a loss of power asks for."""
    events, real_fsync, real_rename = [], os.fsync, Path.rename

    def fsync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real_fsync(descriptor)

    def rename(source, target):
        assert commit.read(source).step == 1
        assert {source, *source.iterdir()} <= set(events)
        assert events.index(source) > events.index(source / "MANIFEST.json")
        events.append("seen")
        return real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    path = write(tmp_path, 1)
    assert events[events.index("seen") + 1 :] == [path.parent]

"""A run that was killed, or paused, or went on with another number of ranks, is the run that was left alone."""

import hashlib
import os
import random
import time

import pytest
import ranks
import torch

from rayseg.data import ledger, open_shards
from rayseg.tracking import NullTracker
from rayseg.train import commit, review
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

PER_EPOCH = 6  # 24 samples in batches of 4
GROUP_NORM = {
    "head.name": "fcn",
    "head.norm": "group",
    "head.dropout": 0.0,
    "loss.aux_weight": 0.0,
    "backbone.name": "convnext_atto",
    "backbone.output_stride": 32,
}


def of_run(run_dir):
    """Hash every tensor of the newest commit: weights, statistics and momentum."""
    found, digest = commit.newest(run_dir), hashlib.sha256()
    for group in ("model", "optimizer"):
        for name, value in sorted(commit.tensors(found, group).items()):
            digest.update(f"{group}/{name}".encode() + value.numpy().tobytes())
    return found.step, digest.hexdigest()


def audited(run_dir, config):
    keys = open_shards(config.data.shards, "train").index.key
    found = ledger.audit(run_dir, keys)
    return found.steps, found.lost, found.repeated


def killed_and_resumed(config, run_dir, *, world, kills, rng):
    """Kill all ranks in the middle of some step, again and again, then let the run end."""
    for _ in range(kills):
        before = commit.commits(run_dir)[-1:]
        begun = ranks.begin(config, run_dir, world=world)
        ranks.wait_for(lambda before=before: commit.commits(run_dir)[-1:] != before)
        at = ranks.steps_done(run_dir) + rng.randint(0, 2)
        ranks.wait_for(lambda at=at, begun=begun: ranks.steps_done(run_dir) >= at or not begun[0].is_alive())
        begun[rng.randrange(world)].kill()
        ranks.kill(begun)
    assert ranks.finish(ranks.begin(config, run_dir, world=world)) == [0] * world


@pytest.mark.parametrize("world", [1, 2])
def test_killed_in_the_middle_of_epochs_ends_with_the_same_bits(run_config, tmp_path, world):
    config = run_config(train__steps=10, train__eval_every=5, train__commit_every=2)
    assert ranks.finish(ranks.begin(config, tmp_path / "whole", world=world)) == [0] * world
    killed_and_resumed(config, tmp_path / "killed", world=world, kills=2, rng=random.Random(world))
    step, digest = of_run(tmp_path / "killed")
    assert (step, digest) == of_run(tmp_path / "whole")
    assert audited(tmp_path / "killed", config) == (10, [], [])
    log = (tmp_path / "killed" / "log.txt").read_text()
    resumed = [int(line.split()[3].split("/")[0]) for line in log.splitlines() if line.startswith("resuming at step")]
    assert any(step % PER_EPOCH for step in resumed), log
    assert review.read_summary(tmp_path / "killed").miou == review.read_summary(tmp_path / "whole").miou


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world", [1, 2])
def test_twenty_kills_end_with_the_same_bits(run_config, tmp_path, world):
    config = run_config(train__steps=40, train__eval_every=10, train__commit_every=1)
    assert ranks.finish(ranks.begin(config, tmp_path / "whole", world=world)) == [0] * world
    killed_and_resumed(config, tmp_path / "killed", world=world, kills=20, rng=random.Random(world))
    assert of_run(tmp_path / "killed") == of_run(tmp_path / "whole")
    assert audited(tmp_path / "killed", config) == (40, [], [])


def test_the_number_of_ranks_may_change_in_the_middle(run_config, tmp_path):
    """1, 2 and 1 ranks after each other, in fp32 with group norm: close to one rank all along, and no sample twice."""
    config = run_config(train__steps=9, train__eval_every=9, **{k.replace(".", "__"): v for k, v in GROUP_NORM.items()})
    assert ranks.finish(ranks.begin(config, tmp_path / "one")) == [0]
    for world, pause_after in ((1, 4), (2, 3), (1, -1)):
        assert ranks.finish(ranks.begin(config, tmp_path / "more", world=world, pause_after=pause_after)) == [0] * world
    one, more = (commit.tensors(commit.newest(tmp_path / name), "model") for name in ("one", "more"))
    start = max(float((one[name] - more[name]).abs().max() / one[name].abs().max().clamp(min=1e-3)) for name in one)
    assert start < 1e-3
    assert not all(torch.equal(one[name], more[name]) for name in one)  # two ranks did take part
    assert audited(tmp_path / "more", config) == (9, [], [])
    assert review.read_summary(tmp_path / "more").goodput["attempts"] == 3


class Pausing(LocalRuntime):
    """Pauses behind a step, and notes which commit was there when it reported."""

    def __init__(self, run_dir, pause_after):
        super().__init__(run_dir, "cpu")
        self.left, self.heard = pause_after, []

    def stop(self):
        self.left -= 1
        return "pause" if self.left == 0 else None

    def report(self, metrics):
        self.heard.append((metrics["step"], commit.commits(self.run_dir)[-1].name))


def train(config, run_dir, pause_after=-1):
    runtime, lines = Pausing(run_dir, pause_after), []
    fit(config, runtime, NullTracker(), show=lines.append)
    return runtime.heard, lines


def test_a_damaged_commit_costs_its_steps_and_no_bit(run_config, tmp_path, monkeypatch):
    """The newest of two is damaged, times of files and the clock on the wall lie, and a writer was killed beside it."""
    config, run_dir = run_config(train__steps=9), tmp_path / "damaged"
    train(config, tmp_path / "whole")
    heard, _ = train(config, run_dir, pause_after=7)
    assert heard == [(3, "step-00000003"), (6, "step-00000006")]
    path = commit.path_of(run_dir, 7) / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(bytes(data))
    os.utime(commit.path_of(run_dir, 6), (0, 0))
    (run_dir / "commits" / ".building-00000008-1").mkdir()
    monkeypatch.setattr(time, "time", lambda real=time.time: real() - 3600)
    heard, lines = train(config, run_dir)
    (warning,) = [line for line in lines if "warning" in line]
    assert "step-00000007" in warning
    assert any("resuming at step 6/9" in line for line in lines)
    assert of_run(run_dir) == of_run(tmp_path / "whole")
    assert heard == [(9, "step-00000009")]
    assert not list((run_dir / "commits").glob(".building-*"))
    assert (run_dir / "commits" / "damaged-step-00000007").exists()
    assert review.read_summary(run_dir).goodput["lost_steps"] == 1
    assert audited(run_dir, config) == (9, [], [])


def test_where_the_best_commit_is_damaged_the_next_best_is_taken(tmp_path):
    for step, miou in ((1, 0.2), (2, 0.5), (3, 0.3), (4, 0.1)):
        state = {"progress": {"miou": miou, "best_step": min(step, 2)}}
        files = {commit.EVALUATION: b"x"} if step < 4 else {}
        commit.write(tmp_path, step, {"model": {"w": torch.ones(2)}}, state, files)
    assert review.best_commit(tmp_path).step == 2
    (commit.path_of(tmp_path, 2) / "state.json").write_text("{}")
    lines = []
    assert review.best_commit(tmp_path, lines.append).step == 3
    assert len(lines) == 1
    assert "the best commit is damaged" in lines[0]


class PausesAfter(LocalRuntime):
    """Asks the run to pause after so many steps."""

    left = 3

    def stop(self):
        self.left -= 1
        return "pause" if self.left == 0 else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_run_goes_on_to_the_same_bits(run_config, tmp_path):
    config = run_config(train__steps=6, train__eval_every=6, train__compile=True)
    fit(config, LocalRuntime(tmp_path / "whole"), NullTracker())
    assert fit(config, PausesAfter(tmp_path / "paused"), NullTracker()) is None
    assert commit.newest(tmp_path / "paused").step == 3
    fit(config, LocalRuntime(tmp_path / "paused"), NullTracker())
    assert of_run(tmp_path / "paused") == of_run(tmp_path / "whole")

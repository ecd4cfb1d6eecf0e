"""Numbers that are not finite, and memory and disks that run out: found in time, said in a line, nothing lost."""

import math
import resource
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import ranks
import torch
from pydantic import ValidationError

from rayseg.errors import CheckpointError, TrainingError, UsageError
from rayseg.losses import SegmentationLoss
from rayseg.tracking import NullTracker
from rayseg.train import commit, faults
from rayseg.train.faults import Guard, RollBack
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime
from rayseg.train.update import Updater


def train(config, run_dir):
    lines = []
    return fit(config, LocalRuntime(run_dir, "cpu"), NullTracker(), show=lines.append), lines


def of_model(run_dir):
    return commit.tensors(commit.newest(run_dir), "model")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def all_finite(run_dir):
    found = [commit.read(path) for path in commit.commits(run_dir)]
    groups = [commit.tensors(each, name) for each in found for name in ("model", "optimizer")]
    return all(t.isfinite().all() for group in groups for t in group.values() if t.is_floating_point())


def poison(monkeypatch, *calls):
    """Let the loss be NaN at these calls, counted from 1 over all attempts; batch norm and gradients see it too."""
    real, count = SegmentationLoss.forward, iter(range(1, 10**6))

    def forward(self, *args):
        losses = real(self, *args)
        if next(count) in calls:
            losses["loss"] = losses["loss"] * math.nan
        return losses

    monkeypatch.setattr(SegmentationLoss, "forward", forward)


def test_by_default_the_run_fails_in_the_step_and_says_what_it_knows(run_config, tmp_path, monkeypatch):
    poison(monkeypatch, 4)
    with pytest.raises(TrainingError) as caught:
        train(run_config(train__log_every=6), tmp_path)
    said = caught.value
    assert said.where == "step 4"
    assert "loss is nan" in said.what
    assert "learning rate 0.01" in said.what
    assert "gradient/backbone." in said.what
    assert all_finite(tmp_path)
    assert commit.newest(tmp_path).step == 3


def test_an_update_that_is_left_out_changes_nothing(run_config, tmp_path, monkeypatch):
    """Against a run in which update 4 is not called at all."""
    with monkeypatch.context() as patch:
        real = Updater.__call__
        nothing = {"loss": torch.tensor(1.0)}
        patch.setattr(Updater, "__call__", lambda self, batch, step: nothing if step == 4 else real(self, batch, step))
        train(run_config(), tmp_path / "without")
    poison(monkeypatch, 4)
    summary, lines = train(run_config(train__on_nan="skip:1"), tmp_path / "skipped")
    assert summary.status == "finished"
    assert [line for line in lines if "step 4" in line and "left out, and 0 more may be" in line]
    assert same(of_model(tmp_path / "without"), of_model(tmp_path / "skipped"))


def test_after_n_left_out_it_rolls_back_and_an_accident_leaves_no_trace(run_config, tmp_path, monkeypatch):
    """NaN at step 5 once: the run goes back to step 3 and ends as if nothing had been."""
    train(run_config(), tmp_path / "whole")
    poison(monkeypatch, 5)
    summary, lines = train(run_config(train__on_nan="rollback"), tmp_path / "back")
    assert [line for line in lines if line.startswith("step 5: loss is nan") and line.endswith("newest commit")]
    assert any("resuming at step 3" in line for line in lines)
    assert same(of_model(tmp_path / "whole"), of_model(tmp_path / "back"))
    assert (summary.goodput["attempts"], summary.goodput["lost_steps"]) == (2, 1)


def test_the_same_step_twice_fails(run_config, tmp_path, monkeypatch):
    poison(monkeypatch, 4, 5, 7)  # 4 is left out, 5 rolls back to 3, 4 again
    with pytest.raises(TrainingError, match="the second time at this step") as caught:
        train(run_config(train__on_nan="skip:1"), tmp_path)
    assert caught.value.where == "step 5"
    assert all_finite(tmp_path)


def test_two_ranks_agree_though_only_one_saw_it(run_config, tmp_path):
    begun = ranks.begin(run_config(), tmp_path, world=2, change=poison_rank_1)
    assert ranks.finish(begun) == [6, 6]
    one, other = ((tmp_path / f"error-{rank}").read_text() for rank in range(2))
    assert "(step 4)" in one
    assert "(step 4)" in other
    assert all_finite(tmp_path)


def poison_rank_1(rank):
    """One part of the loss alone, which no gradient comes from: only this rank can see it."""
    real = Updater.__call__

    def call(self, batch, step):
        losses = real(self, batch, step)
        return losses | {"part": torch.tensor(math.nan if (rank, step) == (1, 4) else 1.0)}

    pytest.MonkeyPatch().setattr(Updater, "__call__", call)


def test_a_gradient_alone_is_enough(run_config, tmp_path, monkeypatch):
    real = Updater._applied

    def applied(self, loss):
        if next(count) == 2:
            self.parts.model.backbone.get_parameter(name).grad[0] = math.inf
        return real(self, loss)

    count, name = iter(range(1, 100)), None
    from rayseg import segmenter

    model = segmenter.build(run_config().model(11))
    name = next(name for name, _ in model.backbone.named_parameters())
    monkeypatch.setattr(Updater, "_applied", applied)
    with pytest.raises(TrainingError, match=rf"gradient/backbone\.{name} is not finite") as caught:
        train(run_config(), tmp_path)
    assert caught.value.where == "step 2"


@pytest.mark.parametrize("policy", ["skip", "skip:0", "skip:-1", "ignore", ""])
def test_an_unknown_policy_is_refused(run_config, policy):
    with pytest.raises((UsageError, ValidationError), match="on_nan"):
        run_config(train__on_nan=policy)


def test_the_policies_budget_is_of_the_run_and_not_of_an_attempt():
    update = SimpleNamespace(
        finite=lambda: False,
        runtime=SimpleNamespace(device=torch.device("cpu")),
        parts=SimpleNamespace(model=torch.nn.Linear(2, 2)),
        tensors=dict,
    )
    guard, losses = Guard("skip:2", lambda line: None), {"loss": torch.tensor(1.0)}
    assert [guard.judge(update, losses, step, 0.1) for step in (3, 4)] == [None, None]
    for step in (5, 6):
        with pytest.raises(RollBack):
            guard.judge(update, losses, step, 0.1)
    with pytest.raises(TrainingError):
        guard.judge(update, losses, 3, 0.1)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom_host: no memory left"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "oom_host"),
        (torch.OutOfMemoryError("for one sample"), "oom_host: for one sample"),
    ],
)
def test_a_lack_of_memory_is_named_with_its_peak(tmp_path, error, kind):
    with pytest.raises(TrainingError, match=kind) as caught, faults.explained(LocalRuntime(tmp_path, "cpu")):
        raise error
    used = float(caught.value.what.split(" had ")[1].split()[0])
    assert used == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, abs=0.1)


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (RuntimeError("shapes"), OSError(13, "Permission denied"), KeyError("x")):
        with pytest.raises(type(error)), faults.explained(LocalRuntime(tmp_path, "cpu")):
            raise error


# --- the disk ---------------------------------------------------------------------------------------------------------


def limit_file_size(_rank):
    """Let the system refuse files of more than 300 kB, which every commit has: as a disk that is full at that byte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def contents(run_dir):
    return {path: path.read_bytes() for path in (run_dir / "commits").glob("*/*")}


def test_a_disk_that_fills_up_in_a_commit_leaves_those_before_and_the_same_command_goes_on(run_config, tmp_path):
    config = run_config()
    assert ranks.finish(ranks.begin(config, tmp_path / "whole")) == [0]
    assert ranks.finish(ranks.begin(config, tmp_path / "full", pause_after=3)) == [0]
    before = contents(tmp_path / "full")
    assert ranks.finish(ranks.begin(config, tmp_path / "full", change=limit_file_size)) == [4]
    said = (tmp_path / "full" / "error-0").read_text()
    assert "cannot write the commit of step 6" in said
    assert "make room, then run the same command again" in said
    assert contents(tmp_path / "full") == before
    assert ranks.finish(ranks.begin(config, tmp_path / "full")) == [0]
    assert same(of_model(tmp_path / "whole"), of_model(tmp_path / "full"))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 400 MiB, where the system lets us."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", where], capture_output=True)
    if made.returncode:
        pytest.skip("no file system of its own can be mounted here")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(run_config, tmp_path, small_disk):
    """Everything else that a run writes finds no room either."""
    config, run_dir = run_config(train__steps=9), small_disk / "run"
    assert ranks.finish(ranks.begin(config, run_dir, pause_after=4)) == [0]
    before = contents(run_dir)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        size = sum(map(len, before.values()))
        file.write(bytes(shutil.disk_usage(small_disk).free - size * 5 // 4))
    codes = ranks.finish(ranks.begin(config, run_dir, change=fill_up))
    assert codes == [4]
    assert contents(run_dir) == before
    filler.unlink()
    (run_dir / "filler").unlink()
    assert ranks.finish(ranks.begin(config, run_dir)) == [0]
    assert ranks.finish(ranks.begin(config, tmp_path / "whole")) == [0]
    assert same(of_model(run_dir), of_model(tmp_path / "whole"))


def fill_up(_rank):
    """Fill the disk up once the run has looked at the room."""
    real = commit.write

    def write(run_dir, *args, **kwargs):
        with (run_dir / "filler").open("wb") as file:
            file.write(bytes(shutil.disk_usage(run_dir).free - 2**20))
        return real(run_dir, *args, **kwargs)

    pytest.MonkeyPatch().setattr(commit, "write", write)


def test_a_disk_without_room_is_refused_before_the_first_step(run_config, tmp_path, monkeypatch):
    monkeypatch.setattr("rayseg.train.writer.shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(CheckpointError, match="no room for a commit"):
        train(run_config(), tmp_path)
    assert not (tmp_path / "samples").exists()

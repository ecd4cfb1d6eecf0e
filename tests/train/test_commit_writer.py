"""Commits beside training: what the loop sees of them, and what is on disk when it does."""

import math
import threading
import time

import pytest
import torch

from rayseg.errors import CheckpointError, TrainingError
from rayseg.train import commit, writer
from rayseg.train.faults import RollBack
from rayseg.train.goodput import Goodput
from rayseg.train.review import State
from rayseg.train.runtime import LocalRuntime
from rayseg.train.watchdog import Watchdog
from rayseg.train.writer import Commits, check_room


class Listening(LocalRuntime):
    """Notes of every report which commit was the newest whole one when it came."""

    def __init__(self, run_dir):
        super().__init__(run_dir, "cpu")
        self.heard = []

    def report(self, metrics):
        found = commit.newest(self.run_dir)
        self.heard.append((metrics["step"], found.step if found else 0))


@pytest.fixture
def listening(tmp_path):
    return Listening(tmp_path)


@pytest.fixture
def held(monkeypatch):
    """Let the writer wait at its door."""
    gate, real = threading.Event(), commit.write

    def late(*args, **kwargs):
        assert gate.wait(20)
        return real(*args, **kwargs)

    monkeypatch.setattr(commit, "write", late)
    yield gate
    gate.set()


def commits_of(runtime):
    return Commits(runtime, Goodput(runtime.run_dir, write=False), Watchdog(runtime, math.inf, print))


def begin(commits, step, value, *, report=True):
    tensors = {"model": {"w": torch.full((4, 3), float(value)), "n": torch.tensor(step)}}
    figures = {"step": step, "miou": 0.5} if report else None
    commits.begin(State(step=step), tensors, {"config": {}}, report=figures)
    return tensors


def interrupted(runtime, step, error):
    """Begin a commit and leave the loop by an error."""
    with commits_of(runtime) as commits:
        begin(commits, step, 1)
        raise error


def value_of(run_dir, step):
    return float(commit.tensors(commit.read(commit.path_of(run_dir, step)), "model")["w"].mean())


def test_the_loop_goes_on_and_what_it_changes_is_not_committed(listening, held):
    with commits_of(listening) as commits:
        tensors = begin(commits, 1, 0.25)
        tensors["model"]["w"].fill_(9.0)  # the next update
        commits.poll()
        assert not commit.commits(listening.run_dir)
        assert not listening.heard
        held.set()
    assert value_of(listening.run_dir, 1) == 0.25
    assert listening.heard == [(1, 1)]


def test_buffers_that_are_used_again_do_not_mix_commits(listening):
    with commits_of(listening) as commits:
        for step in (1, 2, 3):
            begin(commits, step, step)
    assert [value_of(listening.run_dir, step) for step in (2, 3)] == [2.0, 3.0]
    assert listening.heard == [(1, 1), (2, 2), (3, 3)]


def test_the_next_commit_waits_for_the_one_in_the_making(listening, held):
    with commits_of(listening) as commits:
        begin(commits, 1, 1)
        threading.Timer(0.3, held.set).start()
        start = time.monotonic()
        begin(commits, 2, 2)
        assert time.monotonic() - start > 0.25
        assert commit.path_of(listening.run_dir, 1).exists()


def test_a_report_never_comes_before_its_commit(listening, held):
    """Whoever hears of a step finds its commit, at every moment of the write."""
    threading.Timer(0.3, held.set).start()
    with commits_of(listening) as commits:
        begin(commits, 1, 1)
        until = time.monotonic() + 20
        while not listening.heard and time.monotonic() < until:
            commits.poll()
    assert listening.heard == [(1, 1)]


def test_a_fault_of_the_writer_is_raised_after_the_next_update_and_nothing_is_reported(listening, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    def loop():
        with commits_of(listening) as commits:
            begin(commits, 1, 1)
            commits.finish()
            monkeypatch.setattr(commit, "save_file", full)
            begin(commits, 2, 2)
            for _ in range(1000):
                commits.poll()
                time.sleep(0.01)

    with pytest.raises(CheckpointError, match="No space left"):
        loop()
    assert listening.heard == [(1, 1)]
    assert commit.newest(listening.run_dir).step == 1


@pytest.mark.parametrize("group", ["model", "optimizer", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_committed(listening, group, value):
    groups = {name: {"w": torch.ones(3)} for name in ("model", "optimizer", "ema")}
    groups[group]["w"][1] = value

    def loop():
        with commits_of(listening) as commits:
            commits.begin(State(step=3), groups, {}, report={"step": 3})

    with pytest.raises(TrainingError, match=f"{group}/w is not finite"):
        loop()
    assert not commit.commits(listening.run_dir)
    assert not listening.heard


def test_a_fault_of_the_loop_does_not_cost_the_commit_in_the_making(listening, held):
    threading.Timer(0.3, held.set).start()
    with pytest.raises(ZeroDivisionError):
        interrupted(listening, 1, ZeroDivisionError)
    assert commit.newest(listening.run_dir).step == 1
    assert not listening.heard  # other ranks may be gone; the next attempt tells it


def test_a_roll_back_gives_the_report_that_was_due(listening):
    with pytest.raises(RollBack):
        interrupted(listening, 1, RollBack)
    assert listening.heard == [(1, 1)]


def test_a_report_that_a_kill_cut_off_is_given_by_the_next_attempt_and_only_once(listening):
    """As after a kill between the rename and the report: the commit is whole, and nobody has heard of it."""
    with pytest.raises(KeyboardInterrupt):
        interrupted(listening, 4, KeyboardInterrupt)
    for _ in range(2):
        with commits_of(listening) as commits:
            commits.tell_again(commit.newest(listening.run_dir))
        assert listening.heard == [(4, 4)]
    with commits_of(listening) as commits:
        begin(commits, 6, 1, report=False)
    with commits_of(listening) as commits:
        commits.tell_again(commit.newest(listening.run_dir))
    assert listening.heard == [(4, 4)]


def test_room_is_looked_at_before_the_first_step(tmp_path, monkeypatch):
    """A commit of 3 MiB of weights and as much momentum: 6; with three kept and one in the making, twice 24."""
    tensors, said = {"model": {"w": torch.zeros(3 * 2**18)}, "optimizer": {}}, []

    def free(mib):
        monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": mib * 2**20}))

    free(48)
    check_room(tmp_path, tensors, said.append)
    assert not said
    free(47)
    check_room(tmp_path, tensors, said.append)
    assert "47 MiB are free" in said.pop()
    free(5)
    with pytest.raises(CheckpointError, match="it takes 6 MiB, and 5 MiB are free"):
        check_room(tmp_path, tensors, said.append)


@pytest.mark.gpu
def test_from_a_gpu_what_is_committed_is_what_was_there(listening, held):
    weights = torch.randn(512, 1024, device="cuda")
    before = weights.cpu()
    with commits_of(listening) as commits:
        commits.begin(State(step=1), {"model": {"w": weights}}, {})
        weights.zero_()
        held.set()
    assert torch.equal(commit.tensors(commit.newest(listening.run_dir), "model")["w"], before)

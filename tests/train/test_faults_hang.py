"""A rank that hangs or is stopped: found in time, its stacks kept, all ranks ended so that they can start again."""

import os
import signal
import time

import pytest
import ranks
import torch

from rayseg.data.loader import BatchLoader
from rayseg.tracking import NullTracker
from rayseg.train import commit, evaluate
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime
from rayseg.train.update import Updater
from rayseg.train.watchdog import Watchdog

LIMIT_S = 4.0


def sleep_for_ever():
    time.sleep(600)


def hang_in_step_2(rank):
    real = Updater.__call__

    def call(self, batch, step):
        if step == 2 and rank == 1:
            sleep_for_ever()
        return real(self, batch, step)

    pytest.MonkeyPatch().setattr(Updater, "__call__", call)


def hang_in_evaluation(rank):
    real = evaluate.predict

    def predict(*args):
        if rank == 1:
            sleep_for_ever()
        return real(*args)

    pytest.MonkeyPatch().setattr(evaluate, "predict", predict)


def hang_in_commit(rank):
    pytest.MonkeyPatch().setattr(commit, "write", lambda *args: sleep_for_ever())


def hang_in_data(rank):
    real = BatchLoader._read

    def read(self, place):
        if place.stream >= 8:
            sleep_for_ever()
        return real(self, place)

    pytest.MonkeyPatch().setattr(BatchLoader, "_read", read)


def stacks(run_dir):
    return {path.name: path.read_text() for path in (run_dir / "stacks").iterdir()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (hang_in_step_2, "the update after step 1"),
        pytest.param(hang_in_evaluation, "the evaluation", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_hangs_ends_all_and_the_same_command_goes_on(run_config, tmp_path, change, says):
    config = run_config(train__steps=4, train__eval_every=2, train__commit_every=1, train__hang_s=LIMIT_S)
    begun = ranks.begin(config, tmp_path, world=2, change=change)
    assert set(ranks.finish(begun, limit_s=60)) <= {6, 1}  # 1: its peer was gone first
    found = stacks(tmp_path)
    assert found.keys() == {"rank-0000.txt", "rank-0001.txt"}
    assert "sleep_for_ever" in found["rank-0001.txt"]
    assert "did nothing for 4 s" in (tmp_path / "log.txt").read_text()
    assert says in "".join(found.values())
    patient = run_config(train__steps=4, train__eval_every=2, train__commit_every=1)
    assert ranks.finish(ranks.begin(patient, tmp_path, world=2)) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (hang_in_commit, "the commit of step 2"),
        pytest.param(hang_in_data, "the update after step 2", marks=pytest.mark.slow),
    ],
)
def test_one_rank_alone_ends_itself(run_config, tmp_path, change, says):
    config = run_config(train__steps=4, train__eval_every=2, train__hang_s=LIMIT_S)
    assert ranks.finish(ranks.begin(config, tmp_path, change=change), limit_s=90) == [6]
    found = stacks(tmp_path)["rank-0000.txt"]
    assert "sleep_for_ever" in found
    assert says in found


def test_a_stopped_rank_is_found_by_the_others_and_says_where_it_was(run_config, tmp_path):
    config = run_config(train__steps=500, train__eval_every=500, train__commit_every=2, train__hang_s=LIMIT_S)
    begun = ranks.begin(config, tmp_path, world=2)
    ranks.wait_for(lambda: commit.commits(tmp_path))
    os.kill(begun[1].pid, signal.SIGSTOP)
    stopped = time.monotonic()
    codes = ranks.finish(begun, limit_s=LIMIT_S + 20)
    assert codes[0] == 6
    assert codes[1] is not None  # it was woken, saw that its peer is gone, and ended
    assert time.monotonic() - stopped > LIMIT_S - 1
    found = stacks(tmp_path)
    assert 'File "' in found["rank-0000.txt"]
    assert "in _fit" in found["rank-0001.txt"]
    commit.newest(tmp_path, warn=lambda line: pytest.fail(line))


def test_what_the_user_stops_and_lets_go_on_is_no_hang(run_config, tmp_path):
    """Ctrl-Z for longer than the limit, then fg."""
    config = run_config(train__steps=12, train__eval_every=12, train__hang_s=1.5)
    begun = ranks.begin(config, tmp_path)
    ranks.wait_for(lambda: ranks.steps_done(tmp_path) > 2)
    os.kill(begun[0].pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(begun[0].pid, signal.SIGCONT)
    assert ranks.finish(begun) == [0]


class Patient(LocalRuntime):
    """Whoever launched the run takes longer to answer than a rank may hang."""

    def report(self, metrics):
        time.sleep(2.5)


def test_a_report_may_take_as_long_as_it_wants(run_config, tmp_path):
    config = run_config(train__steps=2, train__eval_every=1, train__hang_s=1.5)
    assert fit(config, Patient(tmp_path, "cpu"), NullTracker(), show=print).status == "finished"


def test_no_watch_is_left_behind(tmp_path):
    """A process goes on to other runs: no thread and no file stays open."""
    torch.set_num_threads(1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Watchdog(LocalRuntime(tmp_path, "cpu"), 0.2, print) as watch:
            for _ in range(4):
                time.sleep(0.1)
                watch.beat("a step")
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "stacks" / "rank-0000.txt").read_text() == ""

"""Where the time of a run goes: against a clock that the test holds, and against a real run that is killed."""

import json
import time

import pytest
import ranks

from rayseg.train import goodput, review
from rayseg.train.goodput import Goodput, account


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend(clock, spent, **seconds):
    for kind, each in seconds.items():
        with spent.during(kind):
            clock.now += each


def attempt(run_dir, clock, step):
    spent = Goodput(run_dir, write=True, clock=clock)
    spent.begin(step)
    clock.now += 2  # until the first batch
    return spent


def test_an_undisturbed_run_adds_up(tmp_path, clock):
    start, spent = clock.now, attempt(tmp_path, clock, 0)
    for _, step in zip(spent.waiting(iter(range(4))), range(1, 5), strict=False):
        clock.now += 3
        spent.did(step)
    spend(clock, spent, evaluation=4, commits=1, reports=0.5, closing=1.5)
    spent.end("over")
    found = account(tmp_path)
    wanted = {"start_up": 2, "training": 12, "evaluation": 4, "commits": 1, "reports": 0.5, "closing": 1.5}
    assert {kind: seconds for kind, seconds in found.seconds.items() if seconds} == pytest.approx(wanted)
    assert found.wall_s == pytest.approx(clock.now - start)
    assert found.goodput == pytest.approx(12 / 21)
    shares = [float(part.rsplit(" ", 1)[1].rstrip("%")) for part in found.lines()[1].split(", ")]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_what_a_kill_cost_is_wasted_and_down(tmp_path, clock):
    """Steps 1 to 5, killed behind the commit of 3, 30 s nothing, steps 4 to 6."""
    start, spent = clock.now, attempt(tmp_path, clock, 0)
    for step in range(1, 6):
        spend(clock, spent, training=10)
        spent.did(step)
        if step == 3:
            spent.mark(step)
    clock.now += 30
    spent = attempt(tmp_path, clock, 3)
    for step in range(4, 7):
        spend(clock, spent, training=10)
        spent.did(step)
    spent.end("over")
    found = account(tmp_path)
    wanted = {"start_up": 2, "training": 60, "wasted": 20, "down": 30, "resume": 2}
    assert {kind: seconds for kind, seconds in found.seconds.items() if seconds} == pytest.approx(wanted)
    assert (found.attempts, found.lost_steps) == (2, 2)
    assert found.wall_s == pytest.approx(clock.now - start)


def test_a_later_attempt_may_begin_before_an_earlier_ones_commit(tmp_path, clock):
    """The commit of step 4 is found damaged afterwards: what was done behind step 2 was for nothing."""
    for begins in (0, 4, 2):
        spent = attempt(tmp_path, clock, begins)
        for step in range(begins + 1, begins + 6):
            spend(clock, spent, training=1, evaluation=1)
            spent.did(step)
            spent.mark(step)
    spent.end("over")
    found = account(tmp_path)
    assert found.seconds["training"] == 2 + 0 + 5
    assert found.seconds["wasted"] == 2 * (3 + 5)
    assert found.lost_steps == 3 + 5


def test_a_pause_does_not_count(tmp_path, clock):
    spent = attempt(tmp_path, clock, 0)
    spend(clock, spent, training=5)
    spent.did(1)
    spent.mark(1)
    spent.end("paused")
    clock.now += 36000
    spent = attempt(tmp_path, clock, 1)
    spend(clock, spent, training=5)
    spent.end("over")
    found = account(tmp_path)
    assert (found.seconds["down"], found.seconds["training"]) == (0, 10)
    assert found.wall_s == pytest.approx(14)


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_setting_the_wall_clock_changes_nothing_on_one_boot(tmp_path, clock, monkeypatch, jump_s):
    spend(clock, attempt(tmp_path, clock, 0), training=5)
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + jump_s)
    clock.now += 7
    attempt(tmp_path, clock, 0).end("over")
    assert account(tmp_path).seconds["down"] == pytest.approx(7 + 5, abs=5.1)


def test_after_a_reboot_the_wall_clock_says_how_long_it_was_down(tmp_path, clock, monkeypatch):
    wall = [5000.0]
    monkeypatch.setattr(goodput.time, "time", lambda: wall[0])
    attempt(tmp_path, clock, 0).end("over")
    path = tmp_path / "attempts" / "0000.json"
    record = json.loads(path.read_text()) | {"boot": "another"}
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "ended"}))
    clock.now, wall[0] = 3.0, 5062.0
    attempt(tmp_path, clock, 0).end("over")
    assert account(tmp_path).seconds["down"] == pytest.approx(60)


def test_a_record_that_cannot_be_read_is_left_out(tmp_path, clock):
    attempt(tmp_path, clock, 0).end("over")
    (tmp_path / "attempts" / "0001.json").write_text("{")
    assert account(tmp_path).attempts == 1


def test_a_killed_runs_account_adds_up_to_its_wall_clock(run_config, tmp_path):
    config = run_config(train__steps=6, train__eval_every=6, train__commit_every=1)
    start = time.monotonic()
    begun = ranks.begin(config, tmp_path)
    ranks.wait_for(lambda: ranks.steps_done(tmp_path) >= 3)
    ranks.kill(begun)
    time.sleep(1.5)
    assert ranks.finish(ranks.begin(config, tmp_path)) == [0]
    took = time.monotonic() - start
    found = review.read_summary(tmp_path).goodput
    assert found["attempts"] == 2
    assert found["down_s"] > 1.5
    first, last = (json.loads((tmp_path / "attempts" / f"000{i}.json").read_text()) for i in range(2))
    assert found["wall_s"] == pytest.approx(last["until"] - first["began"], abs=0.02)
    assert found["wall_s"] <= took
    kinds = [name for name in found if name.endswith("_s") and name != "wall_s"]
    assert sum(found[name] for name in kinds) == pytest.approx(found["wall_s"], abs=0.01)
    assert found["resume_s"] > 0
    lines = (tmp_path / "log.txt").read_text().splitlines()[-2:]
    assert lines[0].startswith("goodput ")
    assert lines[1].startswith("training ")

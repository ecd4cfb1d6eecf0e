"""Sweeps on a Ray of their own: killed and resumed, stopped by ASHA, on two workers a trial."""

import os
import signal
from pathlib import Path

import pytest
from sweeping import ended, events, finish, folder, wait_for

from rayseg.sweep.journal import tell
from rayseg.train import commit
from rayseg.train.review import read_summary


def test_killed_driver_and_resume_lose_no_trial_and_run_none_twice(sweep, tmp_path):
    path = folder(tmp_path, "killed")
    first = sweep("--name", "killed")
    wait_for(lambda: len(ended(path)) >= 2 or first.poll() is not None)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before, seen = ended(path), len(events(path))
    assert 2 <= len(before) < 6
    partly = {e["key"] for e in events(path) if e["event"] == "result"} - before.keys()

    lines = finish(sweep("--name", "killed", "--resume"))
    keys = tell(path).plan["keys"]
    ends = [e["key"] for e in events(path) if e["event"] == "end"]
    assert sorted(ends) == sorted(keys)
    assert not {e["key"] for e in events(path)[seen:] if e["event"] == "result"} & before.keys()
    results = [(e["key"], e["step"]) for e in events(path) if e["event"] == "result"]
    assert len(set(results)) == len(results)
    for key in keys:
        summary = read_summary(path / "trials" / key)
        assert (summary.status, summary.step) == ("finished", 16)
    for key in partly:
        assert "resuming at step" in (path / "trials" / key / "log.txt").read_text()
    assert f"resuming: {len(before)} of 6 trials are over" in "\n".join(lines)
    assert (path / "surface.png").stat().st_size > 5000

    again = finish(sweep("--name", "killed", "--resume"))
    assert [line for line in again if line.startswith("rank")]
    assert len([e for e in events(path) if e["event"] == "end"]) == 6


@pytest.mark.slow
def test_interrupted_sweep_leaves_its_trials_open_and_says_how_to_go_on(sweep, tmp_path):
    path = folder(tmp_path, "interrupted")
    first = sweep("--name", "interrupted")
    wait_for(lambda: len(ended(path)) >= 1 or first.poll() is not None)
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=120)[0]
    assert first.returncode == 130, output
    assert "interrupted; go on with --resume --name interrupted" in output
    open_ = set(tell(path).plan["keys"]) - ended(path).keys()
    assert open_
    # A trial may do its last step while the signal travels; none may be closed before its last step.
    closed = [summary for key in open_ if (summary := read_summary(path / "trials" / key)) is not None]
    assert all((summary.status, summary.step) == ("finished", 16) for summary in closed)
    assert len(closed) < len(open_)
    finish(sweep("--name", "interrupted", "--resume"))
    assert {read_summary(path / "trials" / key).step for key in tell(path).plan["keys"]} == {16}


def test_a_failed_trial_is_ranked_last_with_its_reason_and_tried_again_at_a_resume(sweep, tmp_path):
    lines = finish(sweep("--preset", "failing", "--name", "failing"))
    path = folder(tmp_path, "failing")
    assert sorted(ended(path).values()) == ["failed", "finished"]
    assert any("failed" in line and "lower optim.lr" in line for line in lines)
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("rank")) + 1 :][:2]
    assert [row.split()[-1] for row in rows] == ["finished", "failed"]
    before = len([e for e in events(path) if e["event"] == "end"])
    again = finish(sweep("--name", "failing", "--resume"))
    assert "running 1 trials" in "\n".join(again)
    assert len([e for e in events(path) if e["event"] == "end"]) == before + 1


@pytest.mark.slow
def test_a_sweep_in_which_every_trial_fails_fails(sweep, tmp_path):
    process = sweep("--preset", "two", "--name", "doomed", "--set", "optim.lr=1e30")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 6, output
    assert output.splitlines()[-1].startswith("error: all 2 trials failed")


def test_asha_stops_the_trials_that_do_not_learn(sweep, tmp_path):
    lines = finish(sweep("--preset", "asha", "--name", "asha", "--concurrent", "1"))
    path = folder(tmp_path, "asha")
    story = tell(path)
    stopped = {key for key, outcome in story.outcomes.items() if outcome == "stopped"}
    assert stopped
    assert len(story.outcomes) == 8
    rates = {}
    for key in story.plan["keys"]:
        found = commit.newest(path / "trials" / key)
        rates[key] = found.state["config"]["optim"]["lr"]
        summary = read_summary(path / "trials" / key)
        assert summary.status == ("stopped" if summary.step < 16 else "finished")
        assert (path / "trials" / key / "review" / "hardest.jpg").exists()
    best = lines[next(i for i, line in enumerate(lines) if line.startswith("rank")) + 1].split()[1]
    assert rates[best] == 0.05
    assert any("by ASHA" in line and "under the cut" in line for line in lines)


def test_trials_of_two_workers_run_ray_train_under_tune(sweep, tmp_path):
    lines = finish(sweep("--preset", "workers", "--name", "two"))
    path = folder(tmp_path, "two")
    assert "running 2 trials, 1 at a time, 2 worker(s) each" in lines
    assert set(ended(path).values()) == {"finished"}
    for key in tell(path).plan["keys"]:
        assert read_summary(path / "trials" / key).step == 16
        assert [e["step"] for e in events(path) if e["event"] == "result" and e["key"] == key] == list(range(2, 17, 2))


def test_one_driver_at_a_time(sweep, tmp_path):
    path = folder(tmp_path, "busy")
    first = sweep("--name", "busy")
    wait_for(lambda: (path / "journal.jsonl").exists())
    second = sweep("--name", "busy", "--resume")
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 4
    assert "another driver runs it" in output.splitlines()[-1]
    assert Path(path / "journal.jsonl").exists()
    first.kill()

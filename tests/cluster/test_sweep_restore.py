"""A sweep whose driver is killed at random moments comes to what it would have come to undisturbed."""

import csv
import os
import random
import signal
import time

import pytest
from sweeping import ended, events, finish, folder, told_once, wait_for

from rayseg.train import commit


def ranking(path):
    """Read a sweep's ranking, without how long things took."""
    with (path / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in ("time", "latency")} for row in rows]


def results(path):
    return {(event["key"], event["step"]): event["miou"] for event in events(path, "result")}


def killed_at_random(sweep, path, *arguments, kills, lines):
    """Run a sweep and kill its driver again and again, each time up to `lines` of its journal further on.

    It gives how many kills hit; after the first one the next line is the resume's, before Ray starts.
    """
    draw, hits, seen = random.Random(kills), 0, 0
    for _ in range(kills):
        process = sweep(*arguments, "--name", path.name, *(["--resume"] if events(path) else []))
        until = seen + draw.randint(1, lines)
        wait_for(lambda until=until, process=process: len(events(path)) >= until or process.poll() is not None)
        time.sleep(draw.uniform(0, 0.4))
        hits += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen = len(events(path))
    finish(sweep(*arguments, "--name", path.name, "--resume"))
    return hits


def same_end(sweep, root, *, kills, lines, trials):
    """Compare a sweep that is killed with one that is not; give how many kills hit."""
    arguments = ("--preset", "tpe", "--concurrent", "1", "--trials", str(trials))
    finish(sweep(*arguments, "--name", "whole"))
    whole, killed = folder(root, "whole"), folder(root, "killed")
    hits = killed_at_random(sweep, killed, *arguments, kills=kills, lines=lines)
    assert told_once(killed) == told_once(whole)
    assert len(told_once(killed)) == trials
    assert results(killed) == results(whole)
    assert set(ended(killed).values()) == {"finished"}
    assert ranking(killed) == ranking(whole)
    return hits


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twice_it_comes_to_the_same_end(sweep, tmp_path):
    assert same_end(sweep, tmp_path, kills=2, lines=10, trials=5) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times_it_comes_to_the_same_end(sweep, tmp_path):
    assert same_end(sweep, tmp_path, kills=20, lines=4, trials=8) >= 15  # the last ones may find it over


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_once_commits_what_runs_and_twice_ends_at_once(sweep, tmp_path):
    path = folder(tmp_path, "paused")
    first = sweep("--name", "paused", "--set", "train.steps=400", "--set", "train.eval_every=50")
    wait_for(lambda: len(events(path, "result")) >= 1 or first.poll() is not None)
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=120)[0]
    assert first.returncode == 130, output
    assert "pausing: what runs commits and ends" in output
    assert "go on with --resume --name paused" in output
    assert not ended(path)
    begun = {event["key"] for event in events(path, "suggest")}
    steps = {key: commit.newest(path / "trials" / key).step for key in begun}
    told = {key: max([e["step"] for e in events(path, "result") if e["key"] == key], default=0) for key in begun}
    assert any(steps[key] > told[key] for key in begun)
    assert all(f"paused at step {steps[key]}/400" in (path / "trials" / key / "log.txt").read_text() for key in begun)

    again = sweep("--name", "paused", "--resume")
    wait_for(lambda: len(events(path, "result")) > len(told) + 1 or again.poll() is not None)
    for key in begun:
        assert f"resuming at step {steps[key]}/400" in (path / "trials" / key / "log.txt").read_text()
    again.send_signal(signal.SIGINT)
    time.sleep(0.2)
    again.send_signal(signal.SIGINT)
    began = time.monotonic()
    again.communicate(timeout=60)
    assert again.returncode == 130
    assert time.monotonic() - began < 30
    assert not ended(path)

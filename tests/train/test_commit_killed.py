"""SIGKILL at random moments of a process that commits in a loop: what is left is always whole."""

import itertools
import math
import random
import time

import pytest
import ranks
import torch

from rayseg.train import commit
from rayseg.train.goodput import Goodput
from rayseg.train.review import State
from rayseg.train.runtime import LocalRuntime
from rayseg.train.watchdog import Watchdog
from rayseg.train.writer import Commits


class Saying(LocalRuntime):
    def report(self, metrics):
        with (self.run_dir / "said").open("a") as file:
            file.write(f"{metrics['step']}\n")


def weights(step):
    return {name: torch.full((200, 1000), step + i / 8) for i, name in enumerate("abcd")}


def committing(run_dir, start):
    """Commit for ever, as `fit` does it."""
    torch.set_num_threads(1)
    runtime = Saying(run_dir, "cpu")
    with Commits(runtime, Goodput(run_dir, write=False), Watchdog(runtime, math.inf, print)) as commits:
        for step in itertools.count(start):
            groups = {"model": weights(step), "optimizer": weights(-step)}
            commits.begin(State(step=step, best_step=1), groups, {"value": step}, report={"step": step})
            for _ in range(step % 4):
                time.sleep(0.002)
                commits.poll()


def killed_again_and_again(run_dir, kills, rng):
    """Kill the writer `kills` times; check each time what is there. Gives the steps that were found.

    Every other kill comes at any moment, the others when a commit has just become visible.
    """
    run_dir.mkdir(exist_ok=True)
    found = []
    for turn in range(kills):
        start = (found[-1] if found else 0) + 1
        writer = ranks.FORKED.Process(target=committing, args=(run_dir, start))
        writer.start()
        ranks.wait_for(lambda start=start: commit.path_of(run_dir, start).exists() or commit_after(run_dir, start))
        time.sleep(rng.uniform(0, 0.12))
        before = commit.commits(run_dir)[-1]
        until = time.monotonic() + 20 * (turn % 2)
        while commit.commits(run_dir)[-1] == before and time.monotonic() < until:
            pass
        writer.kill()
        writer.join()
        found.append(checked(run_dir))
        commit.tidy(run_dir, after=found[-1])
    return found


def commit_after(run_dir, step):
    return any(path.name >= commit.path_of(run_dir, step).name for path in commit.commits(run_dir))


def checked(run_dir):
    newest = commit.newest(run_dir, warn=lambda line: pytest.fail(line))
    assert newest.state["value"] == newest.step
    for group, sign in (("model", 1), ("optimizer", -1)):
        kept = commit.tensors(newest, group)
        assert all(torch.equal(kept[name], value) for name, value in weights(sign * newest.step).items())
    said = max(map(int, (run_dir / "said").read_text().split()), default=0) if (run_dir / "said").exists() else 0
    assert said <= newest.step  # what was reported is there
    assert newest.step <= max(said, 1) + 2  # one is told late, one may be in the making
    return newest.step


def test_killed_at_fifteen_moments(tmp_path):
    found = killed_again_and_again(tmp_path / "run", 15, random.Random(0))
    assert found == sorted(found)
    assert len(set(found)) == len(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_two_hundred_moments(tmp_path):
    found = killed_again_and_again(tmp_path / "run", 200, random.Random(1))
    assert len(set(found)) == 200
    print(f"200 kills in {found[-1]} commits, every time the newest one whole")

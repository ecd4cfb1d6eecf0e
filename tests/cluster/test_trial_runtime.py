"""The runtime of a trial: reports come back with a verdict, and all ranks stop or pause at the same step."""

import time

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from rayseg.cluster.runtime import Alone, PauseFile, TrialRuntime


def test_a_report_that_comes_back_with_the_end_stops_the_run(tmp_path):
    told, verdicts = [], [True, False]
    runtime = TrialRuntime(tmp_path, Alone(), lambda f: told.append(f) or verdicts.pop(0), pause=None)
    runtime.report({"step": 2})
    assert runtime.stop() is None
    runtime.report({"step": 4})
    assert [runtime.stop(), runtime.stop()] == ["end", "end"]
    assert told == [{"step": 2}, {"step": 4}]


def test_the_file_pauses_within_about_a_second_and_is_looked_for_rarely(tmp_path, monkeypatch):
    pause = PauseFile(tmp_path / "pause")
    runtime = TrialRuntime(tmp_path, Alone(), lambda f: True, pause=pause.path)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    looked = []
    ask = runtime._ask
    monkeypatch.setattr(runtime, "_ask", lambda: looked.append(now[0]) or ask())
    runtime._asked_at = 0.0
    for _ in range(1000):  # steps of 0.02 s
        now[0] += 0.02
        assert runtime.stop() is None
    assert 15 <= len(looked) <= 40
    pause.wanted = "pause"
    asked_at = now[0]
    while runtime.stop() is None:
        now[0] += 0.02
    assert now[0] - asked_at <= 1.1
    assert PauseFile(tmp_path / "pause").wanted is None  # a new sweep is not paused by an old one's file


class Rank:
    def __init__(self, rank, world):
        self.rank, self.world, self.device = rank, world, torch.device("cpu")


def _ranks(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    pause = folder / "pause"
    runtime = TrialRuntime(folder, Rank(rank, 2), lambda f: f["step"] < 6, pause=pause if rank == 0 else None)
    ended = 0
    for step in range(1, 100):
        time.sleep(0.002 * (1 + rank))
        if step % 2 == 0:
            runtime.report({"step": step})
        if runtime.stop() == "end":
            ended = step
            break
    paused = TrialRuntime(folder, Rank(rank, 2), lambda f: True, pause=pause if rank == 0 else None)
    step = 0
    while paused.stop() is None:
        step += 1
        time.sleep(0.002 * (1 + rank))
        if rank == 0 and step == 25:
            pause.touch()
    (folder / f"rank{rank}").write_text(f"{ended} {step}")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_end_and_pause_at_the_same_step(tmp_path):
    spawn(_ranks, (tmp_path,), nprocs=2)
    said = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    ended, paused = map(int, said[0].split())
    assert ended == 6
    assert paused >= 25

"""Each point exactly once at a server that is away for ten minutes, and wherever the process that brings it dies."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from rayseg import config as configs
from rayseg.tracking import Dataset, Ending, mlflow_run
from rayseg.tracking.identity import RunIdentity
from rayseg.tracking.mlflow_run import MlflowRun
from rayseg.tracking.mlflow_tracker import open_tracker, replay, run_id, unsynced
from rayseg.tracking.replay import bring
from rayseg.tracking.replayer import Replayer
from rayseg.tracking.spool import SpoolTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

OUTAGE_S = 600.0


def identity(key: str = "") -> RunIdentity:
    key = key or uuid.uuid4().hex
    return RunIdentity(experiment="outages", run_key=key, run_name=key)


def runs_of(client: Any, key: str) -> list[Any]:
    experiment = client.get_experiment_by_name("outages").experiment_id
    return list(client.search_runs([experiment], f"tags.`rayseg.run_key` = '{key}'"))


def points(client: Any, run: Any) -> list[tuple[str, int, float]]:
    names = run.data.metrics
    return sorted((n, p.step, p.value) for n in names for p in client.get_metric_history(run.info.run_id, n))


class FastForward(threading.Event):
    """An event whose waits take no time; `passing(now, seconds)` is told of each, on a clock of their sum."""

    def __init__(self, passing: Any) -> None:
        super().__init__()
        self.now, self.passing = 0.0, passing

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        self.passing(self.now, timeout)
        return self.is_set()


def test_ten_minutes_without_a_server(proxy: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks at most every second and at least every 15 s all the time, says so once, and then brings everything."""
    monkeypatch.setattr(mlflow_run, "_PAUSE_S", 0.0)
    who = identity()
    tracker = open_tracker(tmp_path, who, None)
    said: list[str] = []
    pauses: list[tuple[float, float]] = []
    steps = iter(range(1, 10**6))
    complete_at: list[float] = []

    def passing(now: float, seconds: float) -> None:
        pauses.append((now, seconds))
        if complete_at:
            return
        for _ in range(int(seconds)):  # a step a second, all the time
            tracker.metrics({"train/loss": 1.0, "train/lr": 0.1}, next(steps))
        if now >= OUTAGE_S and proxy.http is None:
            proxy.start()
        if len(pauses) > 3 and proxy.http is not None and proxy.asked:
            complete_at.append(now)
            replayer.finish()

    replayer = Replayer(tmp_path, lambda: MlflowRun(tmp_path, proxy.uri), warn=said.append)
    monkeypatch.setattr(replayer, "_closing", FastForward(passing))
    replayer.run()
    dead = [seconds for now, seconds in pauses if now <= OUTAGE_S]
    assert dead[:5] == [1.0, 2.0, 4.0, 8.0, 15.0]
    assert set(dead[5:]) == {15.0}, "it never gives up and never asks less often"
    assert len(dead) < 50
    assert len(said) == 1
    assert str(tmp_path) in said[0]
    assert complete_at[0] <= OUTAGE_S + 2 * 15, "it is there at the second question after the server is back"
    assert unsynced(tmp_path) == []
    (run,) = runs_of(client, who.run_key)
    last = next(steps)
    assert last > OUTAGE_S
    assert [p[:2] for p in points(client, run)] == [(n, s) for n in ("train/loss", "train/lr") for s in range(1, last)]


class KilledHere(BaseException):
    """No `except Exception` sees it, as none sees a SIGKILL."""


class Mortal:
    """A client whose process dies at call number `at`, before the server hears of it or after it did it."""

    def __init__(self, client: Any, at: int, *, after: bool) -> None:
        self.client, self.left, self.after = client, at, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise KilledHere
            answer = real(*args, **options)
            if self.left == 0:
                raise KilledHere
            return answer

        return call


def write(tracker: SpoolTracker) -> None:
    """One of every kind of line."""
    tracker.attempt(1, {"workers": "2"})
    tracker.config({"lr": 0.1, "head": {"name": "gald"}})
    tracker.inputs([Dataset("camvid", "ab12", "/shards", "train", 367, 11)])
    for step in (1, 2):
        tracker.metrics({"loss": 1 / step}, step)
        tracker.attempt_metrics(1, {"system/cpu": 50.0}, step)
    tracker.tag("fingerprint", "abc")
    tracker.attempt_over(1, Ending("KILLED", "paused", 2, {"end_step": 2.0}))
    tracker.attempt(2, {"workers": "1"})
    tracker.metrics({"loss": 0.25}, 3)
    tracker.attempt_over(2, Ending("FINISHED", "finished: 3 steps", 3, {"end_step": 3.0}))
    tracker.close("FINISHED")


@pytest.mark.parametrize("after", [False, True])
def test_whoever_brings_it_may_die_at_any_call(server: Any, client: Any, tmp_path: Path, after: bool) -> None:
    """Each time another process brings the rest, and nothing is there twice: not a point, not a run, not an input."""
    write(SpoolTracker(tmp_path / "whole"))
    deaths = 0
    while True:
        run_dir, who = tmp_path / str(deaths), identity()
        shutil.copytree(tmp_path / "whole", run_dir)
        open_tracker(run_dir, who, None)
        destination = MlflowRun(run_dir, server.uri)
        destination._client = Mortal(destination._client, deaths + 1, after=after)
        try:
            bring(run_dir, destination)
        except KilledHere:
            deaths += 1
            assert replay(run_dir, server.uri).complete
        else:
            assert destination._client.left > 0, "no call was left to die at"
        (run,) = runs_of(client, who.run_key)
        assert points(client, run) == [("loss", 1, 1.0), ("loss", 2, 0.5), ("loss", 3, 0.25)], deaths
        assert run.info.status == "FINISHED"
        assert run.data.params == {"lr": "0.1", "head.name": "gald"}
        assert len(client.get_run(run.info.run_id).inputs.dataset_inputs) == 1
        for number, status, end in ((1, "KILLED", 2), (2, "FINISHED", 3)):
            (attempt,) = runs_of(client, f"{who.run_key}/attempt-{number}")
            assert (attempt.info.status, attempt.data.metrics["end_step"]) == (status, end), deaths
            assert attempt.data.tags["mlflow.parentRunId"] == run.info.run_id
        (attempt,) = runs_of(client, f"{who.run_key}/attempt-1")
        assert [p[:2] for p in points(client, attempt)] == [("end_step", 2), ("system/cpu", 1), ("system/cpu", 2)]
        if destination._client.left > 0:
            break
    assert deaths >= 14


def test_a_server_that_is_down_at_the_start_is_warned_of_once_and_trained_without(
    proxy: Any, client: Any, tmp_path: Path, tiny_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = {
        "data": {"shards": str(tiny_shards)},
        "backbone": {"name": "resnet10t", "output_stride": 16},
        "head": {"name": "fcn"},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 30, "batch": 4, "eval_every": 10, "log_every": 1, "precision": "fp32", "shown_images": 1},
    }
    who = identity()
    tracker = open_tracker(tmp_path, who, proxy.uri, close_s=0.0)
    with caplog.at_level(logging.WARNING, logger="rayseg.tracking"):
        summary = fit(configs.from_dict(plain), LocalRuntime(tmp_path, "cpu"), tracker, show=lambda line: None)
        for thread in [t for t in threading.enumerate() if t.name == f"replay {tmp_path.name}"]:
            thread.join(30)
    assert summary is not None
    assert (summary.status, summary.step) == ("finished", 30)
    assert len([r for r in caplog.records if "does not take it" in r.getMessage()]) == 1
    proxy.start()
    assert replay(tmp_path, proxy.uri).complete
    run = client.get_run(run_id(tmp_path))
    steps = [step for name, step, _ in points(client, run) if name == "train/loss"]
    assert steps == list(range(1, 31))
    assert [step for name, step, _ in points(client, run) if name == "val/miou"] == [10, 20, 30]
    assert run.info.status == "FINISHED"

"""A run's attempts in its spool: begun, measured and ended once each, whatever became of their process."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rayseg.tracking import Dataset, Ending, code, machine, nvml
from rayseg.tracking.machine import Machine, Monitor
from rayseg.tracking.nvml import Gpu
from rayseg.tracking.spool import SpoolTracker


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "tracking" / "spool.jsonl").read_text().splitlines()]


def test_an_attempt_begins_and_ends_once(tmp_path: Path) -> None:
    ending = Ending("KILLED", "the process was killed", 7, {"goodput": 0.5}, ended_s=12.5)
    for again in range(2):
        tracker = SpoolTracker(tmp_path, clock=lambda: 99.0)
        tracker.attempt(1, {"workers": "2", "hub_token": "canary"})
        tracker.attempt_metrics(1, {"system/cpu": 3.0 + again}, 0)
        tracker.metrics({"system/cpu": 1.0}, 0)
        tracker.attempt_over(2, ending)  # never begun
        tracker.attempt_over(1, ending._replace(why=f"word {again}"))
    facts, cpu, own, *end = lines(tmp_path)
    assert (facts["kind"], facts["attempt"], facts["facts"]["workers"]) == ("attempt", 1, "2")
    assert (cpu["attempt"], cpu["values"], "attempt" in own) == (1, {"system/cpu": 3.0}, False)
    assert [(line["kind"], line["attempt"]) for line in end] == [("metrics", 1), ("tag", 1), ("status", 1)]
    assert (end[0]["step"], end[0]["values"], end[1]["value"]) == (7, {"goodput": 0.5}, "word 0")
    assert (end[2]["status"], end[2]["t"], end[1]["t"]) == ("KILLED", 12500, 99000)
    assert b"canary" not in (tmp_path / "tracking/spool.jsonl").read_bytes()


def test_an_attempt_that_ends_opens_no_run_that_is_over(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)
    tracker.attempt(1, {})
    tracker.close("FINISHED")
    assert not SpoolTracker(tmp_path).open
    SpoolTracker(tmp_path).attempt_over(1, Ending("KILLED", "killed", 1))
    assert [line["status"] for line in lines(tmp_path) if line["kind"] == "status"] == ["FINISHED", "KILLED"]
    assert not SpoolTracker(tmp_path).open


def test_inputs_are_written_once_and_without_secrets(tmp_path: Path) -> None:
    made = Dataset("camvid", "ab12", "https://me:canary@host/camvid", "train", 367, 11)
    for samples in (367, 367, 100):
        SpoolTracker(tmp_path).inputs([made._replace(samples=samples)])
    assert [line["datasets"][0]["samples"] for line in lines(tmp_path)] == [367, 100]
    assert b"canary" not in (tmp_path / "tracking/spool.jsonl").read_bytes()


def test_threads_write_whole_lines_and_no_point_twice(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)

    def write(of: int) -> None:
        for step in range(100):
            tracker.attempt_metrics(of, {"a": step}, step)
            tracker.metrics({"b": step}, step)  # all of them the same

    threads = [threading.Thread(target=write, args=(of,)) for of in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = [(line.get("attempt"), name, line["step"]) for line in lines(tmp_path) for name in line["values"]]
    assert len(points) == len(set(points)) == 5 * 100


def test_the_machine_is_sampled_until_the_end_and_once_more(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)
    monitor = Monitor(lambda values, sample: tracker.attempt_metrics(1, values, sample), tmp_path, period_s=0.05)
    monitor.start()
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        pass  # this process computes
    before = len(lines(tmp_path))
    monitor.end()
    assert not monitor.is_alive()
    samples = lines(tmp_path)
    assert [line["step"] for line in samples] == list(range(len(samples)))
    assert len(samples) == before + 1 >= 3
    assert max(line["values"]["system/process_cpu_utilization_percentage"] for line in samples) > 10
    assert {name.split("/")[0] for line in samples for name in line["values"]} == {"system"}
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    assert 0 < samples[0]["values"]["system/process_memory_usage_megabytes"] < total


def test_a_short_attempt_has_a_sample(tmp_path: Path) -> None:
    found: list[int] = []
    monitor = Monitor(lambda values, sample: found.append(sample), tmp_path)
    monitor.start()
    monitor.end()
    assert found == [0]


def test_a_spool_that_hangs_or_fails_holds_no_training_up(tmp_path: Path) -> None:
    stuck = threading.Event()
    monitor = Monitor(lambda values, sample: stuck.wait(30) and None, tmp_path, period_s=0.01)
    monitor.start()
    time.sleep(0.1)
    began = time.monotonic()
    monitor.end()
    assert 0.5 < time.monotonic() - began < 3
    stuck.set()

    (tmp_path / "tracking").write_text("a file stands here")
    with pytest.raises(Exception, match="cannot write"):
        SpoolTracker(tmp_path)
    failing = Monitor(lambda values, sample: (_ for _ in ()).throw(OSError(28, "full")), tmp_path, period_s=0.01)
    failing.start()
    failing.join(5)
    assert not failing.is_alive()


class Library:
    """Answers as NVIDIA's does, for one GPU that tells no power."""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetUtilizationRates(self, handle: Any, answer: Any) -> int:  # noqa: N802
        answer._obj.gpu, answer._obj.memory = 83, 40
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, answer: Any) -> int:  # noqa: N802
        answer._obj.total, answer._obj.used = 8_000_000_000, 2_000_000_000
        return 0

    def nvmlDeviceGetPowerUsage(self, handle: Any, answer: Any) -> int:  # noqa: N802
        return 3


def test_a_gpu_tells_what_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert nvml.find("GPU-2") is None
    gpu = nvml.find("GPU-1", 3)
    assert isinstance(gpu, Gpu)
    found = {"utilization_percentage": 83.0, "memory_usage_megabytes": 8000 / 4, "memory_usage_percentage": 25.0}
    wanted = {f"system/gpu_3_{name}": value for name, value in found.items()}
    assert gpu.figures() == wanted
    assert Machine(tmp_path, gpu).figures().items() >= wanted.items()


def test_no_library_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libnothing-of-this-name.so.1")
    assert nvml.find("GPU-1") is None


def test_mlflow_has_the_same_names_for_what_it_measures(tmp_path: Path) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor()):
        monitor.collect_metrics()
        theirs |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    ours = {name for name in machine.Machine(tmp_path, None).figures() if "process" not in name}
    assert ours <= theirs


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    asked = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def test_the_code_is_its_commit_and_whether_it_was_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "platform" / "rayseg"
    package.mkdir(parents=True)
    monkeypatch.setattr(code, "PACKAGE", package)
    tags = code.tags.__wrapped__
    assert "commit" not in tags()["code"], "there is no repository"
    (package / "__init__.py").write_text("a = 1\n")
    git(tmp_path, "init")
    (tmp_path / "other.txt").write_text("of somebody else")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-m", "theirs")
    assert "commit" not in tags()["code"], "it is in a repository that does not know it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert tags()["mlflow.source.git.commit"] == commit
    assert tags()["mlflow.source.git.dirty"] == "false"
    assert tags()["code"].endswith(f"commit {commit[:10]}")
    (package / "__init__.py").write_text("a = 2\n")
    assert tags()["mlflow.source.git.dirty"] == "true"
    assert tags()["code"].endswith("with changes")
    monkeypatch.setenv("PATH", "")
    assert not any("git" in name for name in tags()), "there is no git"

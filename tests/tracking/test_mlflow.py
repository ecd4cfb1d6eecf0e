"""Every point is at a real MLflow server exactly once, whatever happens to server, network and writer."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from rayseg.errors import ClusterError
from rayseg.tracking.mlflow_run import MlflowRun
from rayseg.tracking.mlflow_tracker import (
    RunIdentity,
    healthy,
    open_tracker,
    replay,
    review_url,
    run_id,
    server_command,
    unsynced,
)
from rayseg.tracking.replay import Mark, read_mark
from rayseg.tracking.replayer import Replayer
from rayseg.tracking.server import check_uri, prepare_client

Story = list[tuple[str, int, float]]


def identity(key: str = "", **changes: Any) -> RunIdentity:
    key = key or uuid.uuid4().hex
    return RunIdentity(experiment="tests", run_key=key, run_name=f"run {key}").model_copy(update=changes)


def stored(client: Any, run: str) -> Story:
    """Every point that the server has of a run, repeats included, in order; without the 1200 of `wide/`."""
    names = [name for name in client.get_run(run).data.metrics if not name.startswith("wide/")]
    return sorted((name, p.step, p.value) for name in names for p in client.get_metric_history(run, name))


def runs_of(client: Any, who: RunIdentity) -> list[Any]:
    experiment = client.get_experiment_by_name(who.experiment).experiment_id
    return list(client.search_runs([experiment], f"tags.`rayseg.run_key` = '{who.run_key}'"))


def tell(tracker: Any, steps: range, factor: float = 1.0) -> Story:
    """Write two metrics a step and give what must be at the server, sorted."""
    for step in steps:
        tracker.metrics({"train/loss": factor / step, "iou/sign (x)": factor * step}, step)
    loss = [("train/loss", step, factor / step) for step in steps]
    return [("iou/sign _x_", step, factor * step) for step in steps] + loss


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_run_is_at_the_server_exactly_once(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity(tags={"rayseg.kind": "trial", "searched.lr (x)": "0.1"})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(300_000))
    config = {
        "head": {"name": "gald", "dims": [1, 2], "deep": {"on": True, "none": None}},
        "lr": 1e-3,
        "long": "x" * 9000,
        "many": {f"n{i}": i for i in range(250)},
    }
    tracker = open_tracker(tmp_path / "run", who, server.uri)
    tracker.config(config)
    expected = tell(tracker, range(1, 301))
    tracker.metrics({"val/miou": math.nan}, 300)
    tracker.metrics({f"wide/{i}": i for i in range(1200)}, 300)
    tracker.artifact(weights, "best/deep")
    tracker.tag("fingerprint", "abc")
    tracker.close("FINISHED")

    (run,) = runs_of(client, who)
    assert run.info.run_id == run_id(tmp_path / "run")
    assert (run.info.status, run.info.run_name) == ("FINISHED", who.run_name)
    assert 0 < run.info.end_time - run.info.start_time < 60_000
    assert run.data.params["head.name"] == "gald"
    assert run.data.params["head.dims"] == "[1, 2]"
    assert run.data.params["head.deep.on"] == "true"
    assert run.data.params["head.deep.none"] == "null"
    assert float(run.data.params["lr"]) == 1e-3
    assert run.data.params["many.n249"] == "249"
    assert run.data.params["long"] == "x" * 497 + "..."
    assert run.data.tags["fingerprint"] == "abc"
    assert run.data.tags["rayseg.kind"] == "trial"
    assert run.data.tags["searched.lr _x_"] == "0.1"
    rest = stored(client, run.info.run_id)
    assert [p for p in rest if p[0] != "val/miou"] == expected
    assert [(p[1], math.isnan(p[2])) for p in rest if p[0] == "val/miou"] == [(300, True)]
    assert {f"wide/{i}": float(i) for i in range(1200)}.items() <= run.data.metrics.items()
    place = tmp_path / "down"
    place.mkdir()
    client.download_artifacts(run.info.run_id, "", str(place))
    assert json.loads((place / "config.json").read_text()) == config
    assert (place / "best/deep/model.safetensors").read_bytes() == weights.read_bytes()
    assert unsynced(tmp_path) == []

    before = stored(client, run.info.run_id)
    assert replay(tmp_path / "run", server.uri).lines == 0
    (tmp_path / "run/tracking/replayed.json").unlink()  # as if it had died before it wrote down the first answer
    again = replay(tmp_path / "run", server.uri)
    assert (again.error, again.skipped, again.points, again.artifacts) == (None, 0, 600 + 1 + 1200, 2)
    assert repr(stored(client, run.info.run_id)) == repr(before)
    assert len(runs_of(client, who)) == 1
    for name in ("wide/0", "wide/499", "wide/500", "wide/1199"):  # around the borders of the calls
        assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_a_resumed_run_goes_on_in_the_same_one(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    first = open_tracker(tmp_path, who, None)
    first.config({"lr": 0.1, "seed": 1})
    expected = tell(first, range(1, 11))
    first.close("KILLED")
    assert replay(tmp_path, server.uri).complete
    assert [run.info.status for run in runs_of(client, who)] == ["KILLED"]

    second = open_tracker(tmp_path, who, None)
    second.config({"lr": 0.2, "seed": 1, "new": 5})
    tell(second, range(6, 11), factor=7.0)
    expected += tell(second, range(11, 16), factor=7.0)
    assert replay(tmp_path, server.uri).complete
    assert [run.info.status for run in runs_of(client, who)] == ["RUNNING"]
    second.close("FAILED")
    assert replay(tmp_path, server.uri).complete
    (run,) = runs_of(client, who)
    assert run.info.status == "FAILED"
    assert stored(client, run.info.run_id) == sorted(expected)
    assert run.data.params == {"lr": "0.1", "seed": "1", "new": "5"}
    assert run.data.tags["param_drift"] == "lr: 0.1 -> 0.2"


def test_a_child_joins_its_parent_whenever_that_comes(server: Any, client: Any, tmp_path: Path) -> None:
    parent = identity()
    child = identity(f"{parent.run_key}/trial-1", parent_key=parent.run_key)
    folder, trial = tmp_path / "z-sweep", tmp_path / "z-sweep" / "trials" / "1"
    for run_dir, who in [(trial, child), (folder, parent)]:
        tell(open_tracker(run_dir, who, None), range(1, 4))
    assert unsynced(tmp_path) == [folder, trial]
    assert replay(trial, server.uri).complete
    assert "mlflow.parentRunId" not in runs_of(client, child)[0].data.tags
    assert unsynced(tmp_path) == [folder, trial]
    for run_dir in unsynced(tmp_path):
        assert replay(run_dir, server.uri).complete
    (run,), (above,) = runs_of(client, child), runs_of(client, parent)
    assert run.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert unsynced(tmp_path) == []


def test_no_call_waits_for_a_server_that_is_away(proxy: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    tracker = open_tracker(tmp_path, identity(), proxy.uri)
    tracker.config({"lr": 0.1})
    tell(tracker, range(1, 1001))
    assert time.monotonic() - began < 1.0
    tracker.close("FINISHED")
    assert time.monotonic() - began < 12.0, "the bounded time for a server to catch up"
    assert unsynced(tmp_path) == [tmp_path]


def test_a_server_that_comes_late_gets_everything(proxy: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    said: list[str] = []
    tries: list[int] = []
    expected = tell(open_tracker(tmp_path, who, None), range(1, 1001))

    class Counted(MlflowRun):
        def attach(self, mark: Mark) -> Mark:
            tries.append(1)
            return super().attach(mark)

    connect = partial(Counted, tmp_path, proxy.uri)
    replayer = Replayer(tmp_path, connect, period_s=0.01, longest_pause_s=0.05, warn=said.append)
    replayer.start()
    until(lambda: len(tries) > 5)
    proxy.start()
    until(lambda: not unsynced(tmp_path))
    (run,) = runs_of(client, who)
    assert stored(client, run.info.run_id) == expected
    replayer.close(5)
    assert not replayer.is_alive()
    assert len(said) == 1, "it warns once"
    assert str(tmp_path) in said[0]
    assert "\n" not in said[0]


def test_a_close_outlasts_a_short_fault(proxy: Any, client: Any, tmp_path: Path) -> None:
    proxy.fate = lambda path: "refuse" if proxy.asked < 4 else "pass"  # more than one call's own three tries
    proxy.start()
    who = identity()
    tracker = open_tracker(tmp_path, who, proxy.uri, close_s=30)
    expected = tell(tracker, range(1, 4))
    tracker.close("FINISHED")
    assert stored(client, runs_of(client, who)[0].info.run_id) == expected
    assert unsynced(tmp_path) == []


def test_a_server_killed_in_the_middle_gets_everything(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    tracker = open_tracker(tmp_path, who, server.uri)
    expected = tell(tracker, range(1, 101))
    until(lambda: read_mark(tmp_path).offset)
    server.end(signal.SIGKILL)
    expected += tell(tracker, range(101, 201))
    server.start()
    expected += tell(tracker, range(201, 301))
    tracker.close("FINISHED")
    assert replay(tmp_path, server.uri).complete
    (run,) = runs_of(client, who)
    assert stored(client, run.info.run_id) == sorted(expected)
    assert run.info.status == "FINISHED"


def test_a_killed_worker_is_brought_by_another(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    code = (
        "import json, sys, time; from pathlib import Path\n"
        "from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker\n"
        "tracker = open_tracker(Path(sys.argv[1]), RunIdentity(**json.loads(sys.argv[2])), sys.argv[3])\n"
        "for step in range(1, 10**9):\n"
        "    tracker.metrics({'loss': 1 / step}, step)\n"
        "    print(step, flush=True)\n"
        "    time.sleep(0.005)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path), who.model_dump_json(), server.uri]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        until(lambda: read_mark(tmp_path).offset)
        worker.send_signal(signal.SIGKILL)
        told = int(worker.stdout.read().split()[-1])
    (run,) = runs_of(client, who)
    assert len(stored(client, run.info.run_id)) < told, "the worker brought it all; the test shows nothing"
    open_tracker(tmp_path, who, None).close("KILLED")
    assert replay(tmp_path, server.uri).complete
    (run,) = runs_of(client, who)
    points = stored(client, run.info.run_id)
    assert points[:told] == [("loss", step, 1 / step) for step in range(1, told + 1)]
    assert len(points) in (told, told + 1)  # one line more than it could say
    assert run.info.status == "KILLED"


@pytest.mark.parametrize("fault", ["refuse", "lose"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_server_that_fails_half_the_time(proxy: Any, client: Any, tmp_path: Path, fault: Any, seed: int) -> None:
    """Fails before or after it did what was asked; in the second case the answer is lost."""
    chance = random.Random(seed)
    proxy.fate = lambda path: fault if chance.random() < 0.5 else "pass"
    proxy.start()
    who = identity()
    tracker = open_tracker(tmp_path, who, None)
    tracker.config({"lr": 0.1, "many": {f"n{i}": i for i in range(150)}})
    expected = tell(tracker, range(1, 601))
    tracker.close("FINISHED")
    passes = 0
    while not replay(tmp_path, proxy.uri).complete:
        assert (passes := passes + 1) < 10
    (run,) = runs_of(client, who)
    assert run.info.run_id == run_id(tmp_path)
    assert stored(client, run.info.run_id) == expected
    assert len(run.data.params) == 151
    assert run.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.json"]
    assert proxy.asked > 10


def test_a_run_created_under_a_lost_answer_is_one(proxy: Any, client: Any, tmp_path: Path) -> None:
    """Nor is the experiment made twice, whose first answer is lost too."""
    asked: list[str] = []

    def fate(path: str) -> str:
        asked.append(path)
        return "lose" if path.endswith("/create") else "pass"

    who = identity(experiment=uuid.uuid4().hex)
    tell(open_tracker(tmp_path, who, None), range(1, 4))
    proxy.fate = fate
    proxy.start()
    assert replay(tmp_path, proxy.uri).complete
    assert len([path for path in asked if path.endswith("/runs/create")]) == 1
    (run,) = runs_of(client, who)
    assert len(stored(client, run.info.run_id)) == 6


def test_an_empty_twin_that_comes_late_is_removed(server: Any, client: Any, tmp_path: Path) -> None:
    """A server that answers a create only after the client gave up and made a second one."""
    who = identity()
    tracker = open_tracker(tmp_path, who, None)
    expected = tell(tracker, range(1, 4))
    assert replay(tmp_path, server.uri).complete
    experiment = client.get_experiment_by_name(who.experiment).experiment_id
    client.create_run(experiment, start_time=1, tags={"rayseg.run_key": who.run_key})
    assert len(runs_of(client, who)) == 2
    tracker.close("FINISHED")
    assert replay(tmp_path, server.uri).complete
    (run,) = runs_of(client, who)
    assert stored(client, run.info.run_id) == sorted(expected)


def test_a_hanging_server_holds_nobody_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        tracker = open_tracker(tmp_path, identity(), uri, close_s=0.5)
        tell(tracker, range(1, 101))
        tracker.close("FINISHED")
        assert time.monotonic() - began < 1.5
    assert unsynced(tmp_path) == [tmp_path]


def test_a_dropped_tracker_ends_its_thread(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    tracker = open_tracker(tmp_path, who, server.uri)
    expected = tell(tracker, range(1, 11))
    (thread,) = [t for t in threading.enumerate() if t.name == f"replay {tmp_path.name}"]
    del tracker
    thread.join(10)
    assert not thread.is_alive()
    assert stored(client, runs_of(client, who)[0].info.run_id) == expected


def test_a_run_deleted_at_the_server_is_made_anew(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    tracker = open_tracker(tmp_path, who, None)
    expected = tell(tracker, range(1, 4))
    assert replay(tmp_path, server.uri).complete
    client.delete_run(run_id(tmp_path))
    expected += tell(tracker, range(4, 6))
    report = replay(tmp_path, server.uri)
    assert (report.error, report.points, report.skipped) == (None, 10, 0)
    (run,) = runs_of(client, who)
    assert stored(client, run.info.run_id) == sorted(expected)


def test_two_that_bring_the_same_run_make_one(proxy: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    expected = tell(open_tracker(tmp_path, who, None), range(1, 301))
    together = threading.Barrier(2)

    def fate(path: str) -> str:
        if path.endswith("/runs/create"):
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(1.0)  # both have searched and found none; with the lock only one comes here
        return "pass"

    proxy.fate = fate
    proxy.start()
    both = [threading.Thread(target=replay, args=(tmp_path, proxy.uri)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert together.broken, "both created the run"
    (run,) = runs_of(client, who)
    assert stored(client, run.info.run_id) == expected


def test_a_line_that_the_server_refuses_stops_nothing(
    server: Any, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    who = identity()
    tracker = open_tracker(tmp_path, who, None)
    expected = tell(tracker, range(1, 3))
    with (tmp_path / "tracking" / "spool.jsonl").open("a") as spool:
        spool.write('{"kind": "metrics", "t": 1, "step": 1, "values": {"a//b": 1.0}}\n')
    expected += tell(tracker, range(3, 5))
    with (tmp_path / "tracking" / "spool.jsonl").open("a") as spool:
        spool.write('{"kind": "tag", "t": 1, "name": "..", "value": "x"}\nnonsense\n{"kind": "later", "t": 1}\n')
        spool.write('{"kind": "artifact", "t": 1, "path": "gone.png", "sha256": ""}\n')
    expected += tell(tracker, range(5, 6))
    report = replay(tmp_path, server.uri)
    assert (report.error, report.points, report.skipped) == (None, 10, 5)
    assert stored(client, runs_of(client, who)[0].info.run_id) == sorted(expected)
    assert len([record for record in caplog.records if record.module == "replay"]) == 2


def test_no_secret_reaches_the_server(server: Any, tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, identity(tags={"hub_token": "canary-a"}), server.uri)
    tracker.config({"wandb_api_key": "canary-b", "shards": "https://me:canary-c@h/x", "note": "hf_canarycanary"})
    tracker.tag("stopped", "AKIACANARY0000000000 was refused")
    tracker.close("FAILED")
    assert replay(tmp_path, server.uri).complete
    for root in (tmp_path, server.home):
        for path in root.rglob("*"):
            assert not path.is_file() or b"canary" not in path.read_bytes().lower(), path


def test_the_server_listens_on_loopback_alone(server: Any) -> None:
    process = psutil.Process(server.process.pid)
    listening = [
        connection.laddr
        for one in [process, *process.children(recursive=True)]
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert server.port in {address.port for address in listening}


def test_the_server_keeps_everything_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///stray.db")
    argv, environment = server_command(tmp_path, 5001)
    assert argv[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert f"sqlite:///{tmp_path}/mlflow/mlflow.db" in argv
    assert "MLFLOW_TRACKING_URI" not in environment
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["PATH"] == os.environ["PATH"]


def test_a_proxy_of_the_house_is_not_asked_for_loopback(
    server: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert healthy(server.uri, 0)
    who = identity()
    tell(open_tracker(tmp_path, who, None), range(1, 2))
    assert replay(tmp_path, server.uri).complete
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def test_the_client_opens_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    prepare_client("http://127.0.0.1:5000")
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77", "a user may allow slow artifacts more time"


BAD = [
    "",
    "./mlruns",
    "mlruns",
    "sqlite:///x.db",
    "file:///tmp/x",
    "databricks",
    "http://",
    "127.0.0.1:5000",
    "http://h:99999",
    "http://[::1",
]


@pytest.mark.parametrize("uri", [*BAD, "http://me:canary@127.0.0.1:5000", "https://canary@host/x"])
def test_an_address_that_is_no_server_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as refusal:
        open_tracker(tmp_path / "run", identity(), uri)
    assert "canary" not in str(refusal.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ClusterError):
        replay(tmp_path, uri)


def test_an_address_is_taken_without_its_slash() -> None:
    assert check_uri("http://127.0.0.1:5000/") == "http://127.0.0.1:5000"
    assert check_uri("https://mlflow.example.org/base") == "https://mlflow.example.org/base"


def test_nobody_home_is_not_healthy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: the port is refused
        began = time.monotonic()
        assert not healthy(f"http://127.0.0.1:{taken.getsockname()[1]}", 0.3)
        assert time.monotonic() - began < 2


def test_links_open_in_model_training_mode(server: Any, client: Any, tmp_path: Path) -> None:
    who = identity()
    tell(open_tracker(tmp_path, who, None), range(1, 2))
    replay(tmp_path, server.uri)
    number = client.get_experiment_by_name(who.experiment).experiment_id
    table = f"{server.uri}/#/experiments/{number}/runs?workflowType=machine_learning"
    assert review_url(server.uri, who.experiment) == table
    assert review_url(server.uri, experiment=who.experiment, charts=True) == f"{table}&compareRunsMode=CHART"
    one = review_url(server.uri, who.experiment, runs=[run_id(tmp_path) or ""])
    assert one == f"{server.uri}/#/experiments/{number}/runs/{run_id(tmp_path)}?workflowType=machine_learning"
    page, query = review_url(server.uri, who.experiment, runs=["a", "b"]).split("?")
    assert page == f"{server.uri}/#/compare-runs"
    asked = urllib.parse.parse_qs(query)
    assert json.loads(asked["runs"][0]) == ["a", "b"]
    assert json.loads(asked["experiments"][0]) == [number]
    assert asked["workflowType"] == ["machine_learning"]
    assert review_url(server.uri, "no such").startswith(f"{server.uri}/#/experiments?")


def test_a_directory_without_a_spool_brings_nothing(server: Any, tmp_path: Path) -> None:
    assert replay(tmp_path / "never started", server.uri).complete
    assert unsynced(tmp_path) == []

"""Earlier runs, read back from a real server as they were written."""

import uuid

import pytest

from rayseg.errors import ClusterError
from rayseg.tracking.history import earlier
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker, run_id


def write(server, folder, *, status="FINISHED", experiment="history", **tags):
    who = RunIdentity(experiment=experiment, run_key=uuid.uuid4().hex, run_name=f"run {folder.name}", tags=tags)
    tracker = open_tracker(folder, who, server.uri)
    for step in (20, 40):
        tracker.metrics({"val/miou": step / 100, "val/latency_ms": 30.0 - step / 4, "train/loss": 1.0}, step)
    tracker.tag("stopped", "finished")
    tracker.close(status)


def test_runs_of_all_experiments_with_all_the_tags_that_ended_in_order(server, tmp_path):
    mark = uuid.uuid4().hex
    write(server, tmp_path / "a", **{"rayseg.data": mark, "rayseg.config": "c1"})
    write(server, tmp_path / "b", experiment="history elsewhere", **{"rayseg.data": mark, "rayseg.config": "c2"})
    write(server, tmp_path / "killed", status="KILLED", **{"rayseg.data": mark})
    write(server, tmp_path / "other", **{"rayseg.data": "another"})
    a, b = earlier(server.uri, {"rayseg.data": mark}, ("val/miou", "val/latency_ms", "val/none"))
    assert (a.name, a.experiment, a.run_id) == ("run a", "history", run_id(tmp_path / "a"))
    assert a.tags.items() >= {"rayseg.config": "c1", "stopped": "finished"}.items()
    assert a.curves == {"val/miou": {20: 0.2, 40: 0.4}, "val/latency_ms": {20: 25.0, 40: 20.0}}
    assert (b.name, b.experiment) == ("run b", "history elsewhere")
    (only,) = earlier(server.uri, {"rayseg.data": mark, "rayseg.config": "c2"}, ("val/miou",))
    assert only.name == "run b"
    assert earlier(server.uri, {"rayseg.data": uuid.uuid4().hex}, ("val/miou",)) == []


def test_a_server_that_is_away_is_one_line(free_port, monkeypatch):
    monkeypatch.setattr("rayseg.tracking.history.ANSWER_S", 0.1)
    with pytest.raises(ClusterError, match="does not answer"):
        earlier(f"http://127.0.0.1:{free_port}", {"rayseg.data": "x"}, ())


def test_a_server_that_fails_is_one_line(proxy):
    proxy.fate = lambda path: "pass" if path.startswith("/health") else "refuse"
    proxy.start()
    with pytest.raises(ClusterError, match="cannot read earlier runs: "):
        earlier(proxy.uri, {"rayseg.data": "x"}, ())

"""The spool by itself: whole lines, no point twice, no secret, whatever happens to its writer."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import CheckpointError, ClusterError, UsageError
from rayseg.tracking.identity import RunIdentity, read_identity, write_identity
from rayseg.tracking.names import valid_name
from rayseg.tracking.redact import redact
from rayseg.tracking.replay import BATCH_POINTS, batches
from rayseg.tracking.spool import SpoolTracker, read_lines


def contents(run_dir: Path) -> list[dict[str, Any]]:
    """What the file says, read without our reader."""
    return [json.loads(line) for line in (run_dir / "tracking" / "spool.jsonl").read_text().splitlines()]


def points(run_dir: Path) -> list[tuple[str, int, float]]:
    lines = [line for line in contents(run_dir) if line["kind"] == "metrics"]
    return [(name, line["step"], value) for line in lines for name, value in line["values"].items()]


def test_every_kind_of_line_is_written_at_once(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    source.write_text("a,b\n")
    tracker = SpoolTracker(tmp_path / "run", clock=lambda: 12.3456)
    tracker.config({"head": {"name": "gald"}})
    tracker.metrics({"loss": 1.5, "val/miou": math.nan}, 3)
    tracker.artifact(source, "best/tables")
    tracker.tag("fingerprint", "abc")
    tracker.close("FINISHED")
    lines = contents(tmp_path / "run")
    assert [line["kind"] for line in lines] == ["config", "artifact", "metrics", "artifact", "tag", "status"]
    assert {line["t"] for line in lines} == {12345}
    assert lines[0]["values"] == {"head": {"name": "gald"}}
    assert lines[2]["step"] == 3
    assert lines[2]["values"]["loss"] == 1.5
    assert math.isnan(lines[2]["values"]["val/miou"])
    assert lines[3]["path"] == "best/tables/table.csv"
    assert lines[3]["sha256"] == hashlib.sha256(b"a,b\n").hexdigest()
    assert (tmp_path / "run/tracking/artifacts/best/tables/table.csv").read_bytes() == b"a,b\n"
    assert json.loads((tmp_path / "run/tracking/artifacts/config.json").read_text()) == {"head": {"name": "gald"}}


def test_a_resumed_attempt_says_nothing_twice(tmp_path: Path) -> None:
    source = tmp_path / "picture.png"
    for attempt, steps in enumerate([range(1, 11), range(6, 16)]):
        source.write_bytes(b"same")
        tracker = SpoolTracker(tmp_path / "run")
        tracker.config({"lr": 0.1, "sizes": (1, 2)})
        tracker.tag("fingerprint", "abc")
        for step in steps:
            tracker.metrics({"loss": 100.0 * attempt + step}, step)
        tracker.artifact(source)
    expected = [("loss", step, float(step)) for step in range(1, 11)]
    expected += [("loss", step, 100.0 + step) for step in range(11, 16)]
    assert points(tmp_path / "run") == expected
    kinds = [line["kind"] for line in contents(tmp_path / "run") if line["kind"] != "metrics"]
    assert kinds == ["config", "artifact", "tag", "artifact"]


def test_a_name_that_is_new_at_an_old_step_is_a_point(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)
    tracker.metrics({"train/loss": 1.0}, 5)
    tracker.metrics({"train/loss": 2.0, "val/miou": 0.5}, 5)
    tracker.metrics({"train/loss": 3.0}, 4)
    assert points(tmp_path) == [("train/loss", 5, 1.0), ("val/miou", 5, 0.5), ("train/loss", 4, 3.0)]


def test_a_changed_artifact_replaces_the_old_one(tmp_path: Path) -> None:
    source = tmp_path / "best.txt"
    tracker = SpoolTracker(tmp_path / "run")
    for text in ("one", "one", "two"):
        source.write_text(text)
        tracker.artifact(source)
    assert [line["sha256"] for line in contents(tmp_path / "run")] == [
        hashlib.sha256(text).hexdigest() for text in (b"one", b"two")
    ]
    assert (tmp_path / "run/tracking/artifacts/best.txt").read_text() == "two"


def test_an_over_run_that_goes_on_is_running_again(tmp_path: Path) -> None:
    first = SpoolTracker(tmp_path)
    first.metrics({"loss": 1.0}, 1)
    first.close("KILLED")
    first.close("FINISHED")
    SpoolTracker(tmp_path).close("KILLED")
    second = SpoolTracker(tmp_path)
    second.metrics({"loss": 1.0}, 2)
    second.close("FINISHED")
    said = [line["status"] for line in contents(tmp_path) if line["kind"] == "status"]
    assert said == ["KILLED", "RUNNING", "FINISHED"]


def test_a_picture_drawn_later_leaves_the_end_of_a_run_where_it_was(tmp_path: Path) -> None:
    first = SpoolTracker(tmp_path / "run")
    first.attempt(1, {})
    first.close("FINISHED")
    (source := tmp_path / "sheet.jpg").write_text("drawn")
    later = SpoolTracker(tmp_path / "run")
    later.artifact(source, "review")
    later.tag("base_trial", "abc")
    later.close("FINISHED")
    again = SpoolTracker(tmp_path / "run")
    again.attempt(2, {})
    said = [line["status"] for line in contents(tmp_path / "run") if line["kind"] == "status"]
    assert said == ["FINISHED", "RUNNING"]


@pytest.mark.parametrize("torn", [b'{"kind": "metrics", "t": 1, "step": 7, "val', b"\0" * 40, b"{"])
def test_a_torn_end_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    SpoolTracker(tmp_path).metrics({"loss": 1.0}, 1)
    spool = tmp_path / "tracking" / "spool.jsonl"
    whole = spool.stat().st_size
    with spool.open("ab") as file:
        file.write(torn)
    assert [line.end for line in read_lines(tmp_path)] == [whole]
    tracker = SpoolTracker(tmp_path)
    tracker.metrics({"loss": 2.0}, 1)
    tracker.metrics({"loss": 3.0}, 2)
    read = [line.content for line in read_lines(tmp_path)]
    assert [line and line["step"] for line in read] == [1, None, 2]
    assert [batch.kind for batch in batches(read_lines(tmp_path))] == ["values", "damaged", "values"]


def test_a_killed_writer_loses_no_line_that_it_was_told_of(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rayseg.tracking.spool import SpoolTracker\n"
        "tracker = SpoolTracker(Path(sys.argv[1]))\n"
        "for step in range(10**9):\n"
        "    tracker.metrics({'loss': step}, step)\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 200:
            pass
        writer.send_signal(signal.SIGKILL)
        told = 200 + len(writer.stdout.read().split())
    assert [step for _, step, _ in points(tmp_path)][:told] == list(range(told))


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from rayseg.tracking.spool import SpoolTracker\n"
        "from rayseg.errors import ClusterError\n"
        "tracker = SpoolTracker(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    for step in range(100): tracker.metrics({'loss': 0.5}, step)\n"
        "except ClusterError as error: print(step, str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    step, said = done.stdout.split(" ", 1)
    assert "cannot write the spool" in said
    assert "make room" in said
    assert points(tmp_path) == [("loss", s, 0.5) for s in range(int(step))]
    assert int(step) > 5
    SpoolTracker(tmp_path).metrics({"loss": 0.5}, int(step))
    assert len(points(tmp_path)) == int(step) + 1


def test_writing_costs_training_nothing(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)
    began = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0, "lr": 0.1}, step)
    assert time.monotonic() - began < 1.0


def test_a_missing_artifact_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"gone\.png"):
        SpoolTracker(tmp_path).artifact(tmp_path / "gone.png")


@pytest.mark.parametrize("folder", ["../..", "/etc", "a/../../b"])
def test_an_artifact_stays_inside_the_run(tmp_path: Path, folder: str) -> None:
    source = tmp_path / "x.txt"
    source.write_text("x")
    with pytest.raises(UsageError):
        SpoolTracker(tmp_path / "run").artifact(source, folder)
    assert [p.name for p in (tmp_path / "run").rglob("x.txt")] == []


NAMES = st.text(st.sampled_from("ab/.:_- ()[]@+é\n\\~"), max_size=12) | st.text(max_size=300)


@pytest.fixture(scope="module")
def rules() -> Any:
    import mlflow.utils.validation

    return mlflow.utils.validation


@given(name=NAMES)
def test_any_name_becomes_one_that_mlflow_takes(rules: Any, name: str) -> None:
    clean = valid_name(name)
    rules._validate_metric(clean, 1.0, 0, 0)
    rules._validate_param(clean, "v")
    rules._validate_tag(clean, "v")
    assert valid_name(clean) == clean


def test_good_names_stay_and_two_stay_two(tmp_path: Path) -> None:
    good = ["val/iou/sky", "train/loss", "lr", "iou/side walk", "a:b-c.d_e"]
    assert [valid_name(name) for name in good] == good
    SpoolTracker(tmp_path).metrics({"sign (x)": 1.0, "sign [x]": 2.0}, 0)
    assert points(tmp_path) == [("sign _x_", 0, 1.0), ("sign _x__", 0, 2.0)]


@given(st.lists(st.one_of(st.integers(1, 700), st.just("tag"), st.none()), max_size=30))
def test_batches_keep_the_order_and_the_limit(plan: list[int | str | None]) -> None:
    from rayseg.tracking.spool import Line

    made = []
    for end, what in enumerate(plan, start=1):
        values = {"kind": "metrics", "values": dict.fromkeys(map(str, range(what)))} if isinstance(what, int) else None
        made.append(Line(end, values if what != "tag" else {"kind": "tag"}))
    found = list(batches(iter(made)))
    flat = [content for batch in found for content in batch.contents]
    assert flat == [line.content or {"kind": "damaged"} for line in made]
    ends = [batch.end for batch in found]
    assert ends == sorted(set(ends))
    assert ends[-1:] == [len(plan)][: len(plan)]
    for batch in found:
        points = sum(len(c["values"]) for c in batch.contents if c["kind"] == "metrics")
        tags = sum(c["kind"] == "tag" for c in batch.contents)
        assert len(batch.contents) == 1 or (batch.kind == "values" and points <= BATCH_POINTS and tags <= 50)


SECRETS = {
    "hub_token": "canary-1",
    "db": {"Password": "canary-2", "users": [{"aws_secret_access_key": "canary-3"}]},
    "AWS_REGION": "canary-4",
    "key_id": {"nested": "canary-5"},
    "note": "use AKIACANARY0000000006 or hf_canary7canary7 or ghp_canary8canary8canary8",
    "shards": ["s3://user:canary-9@bucket/train", "https://h/x?X-Amz-Signature=canary-10&v=1"],
}


def test_no_secret_reaches_the_disk(tmp_path: Path) -> None:
    identity = RunIdentity(experiment="e", run_key="k", run_name="n", tags={"api_key": "canary-11"})
    write_identity(tmp_path, identity)
    tracker = SpoolTracker(tmp_path)
    tracker.config(SECRETS)
    tracker.tag("hf_token", "canary-12")
    tracker.tag("stopped", "cannot read https://me:canary-13@host/x")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"canary" not in written.lower()
    assert b"bucket/train" in written
    assert b"&v=1" in written


def test_redaction_keeps_what_is_no_secret() -> None:
    plain = {
        "head": {"name": "gald", "key_channels": 64, "keys": [1, 2.5, True, None]},
        "shards": "s3://bucket/a@b/c?version=1",
        "monkey": "hf_",
    }
    assert redact(plain) == plain


def test_a_directory_keeps_its_run(tmp_path: Path) -> None:
    identity = RunIdentity(experiment="e", run_key="sweep/1", run_name="one", parent_key="sweep", tags={"a": "b"})
    write_identity(tmp_path, identity)
    assert read_identity(tmp_path) == identity
    renamed = identity.model_copy(update={"run_name": "two"})
    write_identity(tmp_path, renamed)
    assert read_identity(tmp_path) == renamed
    with pytest.raises(CheckpointError, match="sweep/2"):
        write_identity(tmp_path, identity.model_copy(update={"run_key": "sweep/2"}))
    with pytest.raises(CheckpointError, match="no tracked run"):
        read_identity(tmp_path / "elsewhere")


def test_a_place_that_takes_no_spool_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tracking").write_text("a file stands here")
    with pytest.raises(ClusterError, match="cannot write the spool"):
        SpoolTracker(tmp_path)

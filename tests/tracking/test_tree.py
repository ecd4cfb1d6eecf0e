"""Sweep, trial, attempts: three levels at a real MLflow server, written by real runs that are paused and killed."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from rayseg import config as configs
from rayseg.config import RunConfig
from rayseg.data import cursor
from rayseg.data.reader import open_shards
from rayseg.schema import to_dict
from rayseg.tracking import Ending
from rayseg.tracking.mlflow_run import MlflowRun
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker, replay, run_id
from rayseg.tracking.spool import SpoolTracker
from rayseg.train import review
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

STEPS = 6


@pytest.fixture(scope="module")
def tiny(tiny_shards: Path) -> RunConfig:
    plain = {
        "data": {"shards": str(tiny_shards)},
        "backbone": {"name": "resnet10t", "output_stride": 16},
        "head": {"name": "gald", "channels": 16, "kernel_size": 3, "dilation": 1},
        "optim": {"lr": 0.02},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": STEPS, "batch": 4, "eval_every": 2, "log_every": 1, "precision": "fp32", "shown_images": 1},
    }
    return configs.from_dict(plain)


class Until(LocalRuntime):
    """Does `deed` at the question after `step` updates of this attempt."""

    def __init__(self, run_dir: Path, step: int, deed: Any) -> None:
        super().__init__(run_dir, "cpu")
        self.left, self.deed = step, deed

    def stop(self) -> Any:
        self.left -= 1
        return self.deed() if self.left == 0 else None


def killed(config: RunConfig, run_dir: Path, step: int) -> None:
    """Run in a process of its own that ends without a word after `step` updates."""
    if (child := os.fork()) == 0:
        try:
            fit(config, Until(run_dir, step, lambda: os._exit(0)), SpoolTracker(run_dir), show=lambda line: None)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def child_runs(client: Any, experiment: str, parent: str) -> list[Any]:
    number = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([number], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted(found, key=lambda run: run.info.run_name)


def history(client: Any, run: Any) -> list[tuple[str, int]]:
    return [(name, p.step) for name in run.data.metrics for p in client.get_metric_history(run.info.run_id, name)]


def identities(**tags: str) -> tuple[RunIdentity, RunIdentity]:
    key = uuid.uuid4().hex
    sweep = RunIdentity(experiment=f"tree-{key[:6]}", run_key=key, run_name="the sweep")
    trial = sweep.model_copy(
        update={"run_key": f"{key}/t1", "run_name": "001-t1", "parent_key": key, "tags": {"rayseg.kind": "trial"}}
    )
    return sweep, trial


def test_a_trial_paused_killed_and_finished_is_one_run_with_three_attempts(
    server: Any, client: Any, tiny: RunConfig, tmp_path: Path
) -> None:
    sweep, trial = identities()
    run_dir = tmp_path / "sweep" / "trials" / "t1"
    open_tracker(tmp_path / "sweep", sweep, None).tag("rayseg.kind", "sweep")
    assert replay(tmp_path / "sweep", server.uri).complete

    first = open_tracker(run_dir, trial, server.uri)
    assert fit(tiny, Until(run_dir, 2, lambda: "pause"), first, show=lambda line: None) is None
    first.close("KILLED")
    (run,) = child_runs(client, sweep.experiment, run_id(tmp_path / "sweep"))
    assert (run.info.status, run.data.tags["stopped"]) == ("KILLED", "paused at step 2 of 6")
    killed(tiny, run_dir, 4)  # after step 6, whose evaluation is to come; the commit of step 4 is whole by then
    last = open_tracker(run_dir, trial, server.uri)
    assert fit(tiny, LocalRuntime(run_dir, "cpu"), last, show=lambda line: None) is not None

    (run,) = child_runs(client, sweep.experiment, run_id(tmp_path / "sweep"))
    attempts = child_runs(client, sweep.experiment, run.info.run_id)
    assert [each.info.run_name for each in attempts] == ["attempt 1", "attempt 2", "attempt 3"]
    assert [each.info.status for each in attempts] == ["KILLED", "KILLED", "FINISHED"]
    said = ["paused at step 2 of 6", "the process was killed", "finished: 6 steps"]
    assert [each.data.tags["stopped"] for each in attempts] == said
    assert {each.data.tags["rayseg.kind"] for each in attempts} == {"attempt"}
    spans = [(int(each.data.params["start_step"]), each.data.metrics["end_step"]) for each in attempts]
    assert spans[0] == (0, 2)
    assert spans[1][0] == 2
    assert spans[2] == (4, 6)
    for number, each in enumerate(attempts, start=1):
        assert each.info.start_time <= each.info.end_time
        assert each.data.params["attempt"] == str(number)
        assert each.data.params["workers"] == "1"
        assert each.data.params["device"] == "cpu"
        assert os.uname().nodename not in json.dumps(each.data.params)
        spent = {name: s for name, s in each.data.metrics.items() if name.startswith("time/")}
        assert spent["time/training_s"] > 0
        assert sum(spent.values()) <= (each.info.end_time - each.info.start_time) / 1000 + 0.5
        assert each.data.metrics["goodput"] == pytest.approx(spent["time/training_s"] / sum(spent.values()))
        points = history(client, each)
        assert len(points) == len(set(points))
        sampled = {"system/cpu_utilization_percentage", "system/process_memory_usage_megabytes"} <= {
            n for n, _ in points
        }
        assert sampled or number == 2  # which was killed, perhaps within a second: before its first sample
    lost = attempts[1].data.metrics
    assert lost["end_step"] in (5, 6)  # its record is written ten times a second
    assert lost["lost_steps"] == lost["end_step"] - 4

    assert (run.info.status, run.data.tags["stopped"]) == ("FINISHED", "finished: 6 steps")
    points = history(client, run)
    assert len(points) == len(set(points))
    assert sorted(step for name, step in points if name == "train/loss") == [1, 2, 3, 4, 5, 6]
    assert sorted(step for name, step in points if name == "val/miou") == [2, 4, 6]
    assert not any(name.startswith("system/") for name, _ in points)


def test_params_are_the_whole_config_and_tags_and_inputs_name_code_and_data(
    server: Any, client: Any, tiny: RunConfig, tmp_path: Path
) -> None:
    _, trial = identities()
    who = trial.model_copy(update={"parent_key": None})
    tracker = open_tracker(tmp_path, who, server.uri)
    fit(tiny, LocalRuntime(tmp_path, "cpu"), tracker, show=lambda line: None)
    run = client.get_run(run_id(tmp_path))

    def flat(plain: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(plain, dict):
            return {prefix: plain if isinstance(plain, str) else json.dumps(plain)}
        return {k: v for name, inner in plain.items() for k, v in flat(inner, f"{prefix}.{name}".strip(".")).items()}

    assert run.data.params == {name: value[:500] for name, value in flat(to_dict(tiny)).items()}
    assert run.data.params["head.kernel_size"] == "3"
    splits = {"train": open_shards(tiny.data.shards, "train"), "validation": open_shards(tiny.data.shards, "val")}
    assert run.data.tags["dataset"] == "scenes"
    assert "rayseg" in run.data.tags["code"]
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert [tag.key for each in run.inputs.dataset_inputs for tag in each.tags] == ["mlflow.data.context"] * 2
    assert inputs.keys() == splits.keys()
    for context, split in splits.items():
        digest = cursor.digest(split.index)
        assert digest in run.data.tags[f"dataset.{context}"]
        assert (inputs[context].name, inputs[context].digest) == ("scenes", digest)
        assert json.loads(inputs[context].source) == {"uri": str(split.folder)}
        assert json.loads(inputs[context].profile) == {"num_rows": len(split), "num_classes": 11}

    (tmp_path / "tracking/replayed.json").unlink()
    assert replay(tmp_path, server.uri).complete
    again = client.get_run(run_id(tmp_path))
    assert len(again.inputs.dataset_inputs) == 2
    assert len(child_runs(client, who.experiment, run.info.run_id)) == 1


def test_a_trial_that_is_given_up_says_why(server: Any, client: Any, tiny: RunConfig, tmp_path: Path) -> None:
    _, trial = identities()
    reason = "stopped at rung 1 (step 2) by ASHA: mIoU 0.412 under the cut 0.447"

    def give_up() -> str:
        review.give_up(tmp_path, reason)
        return "end"

    tracker = open_tracker(tmp_path, trial.model_copy(update={"parent_key": None}), server.uri)
    summary = fit(tiny, Until(tmp_path, 3, give_up), tracker, show=lambda line: None)
    assert summary is not None
    run = client.get_run(run_id(tmp_path))
    (attempt,) = child_runs(client, trial.experiment, run.info.run_id)
    assert run.data.tags["stopped"] == attempt.data.tags["stopped"] == reason
    assert (run.info.status, attempt.info.status) == ("FINISHED", "FINISHED")


def test_an_attempt_that_fails_says_why(server: Any, client: Any, tiny: RunConfig, tmp_path: Path) -> None:
    _, trial = identities()

    def fail() -> None:
        raise RuntimeError("the cable is out\nand more")

    tracker = open_tracker(tmp_path, trial.model_copy(update={"parent_key": None}), server.uri)
    with pytest.raises(RuntimeError, match="the cable"):
        fit(tiny, Until(tmp_path, 3, fail), tracker, show=lambda line: None)
    tracker.close("FAILED")
    run = client.get_run(run_id(tmp_path))
    (attempt,) = child_runs(client, trial.experiment, run.info.run_id)
    assert attempt.info.status == "FAILED"
    assert run.data.tags["stopped"] == attempt.data.tags["stopped"] == "failed: RuntimeError: the cable is out"
    assert attempt.data.metrics["end_step"] == 3


def test_attempts_follow_a_run_that_was_deleted_and_is_made_anew(server: Any, client: Any, tmp_path: Path) -> None:
    _, trial = identities()
    tracker = open_tracker(tmp_path, trial.model_copy(update={"parent_key": None}), None)
    tracker.attempt(1, {"workers": "1"})
    tracker.metrics({"loss": 1.0}, 1)
    assert replay(tmp_path, server.uri).complete
    before = run_id(tmp_path)
    (attempt,) = child_runs(client, trial.experiment, before)
    client.delete_run(before)
    tracker.attempt_over(1, Ending("FINISHED", "finished", 1, {"end_step": 1}))
    assert replay(tmp_path, server.uri).complete
    assert run_id(tmp_path) != before
    (again,) = child_runs(client, trial.experiment, run_id(tmp_path))
    assert again.info.run_id == attempt.info.run_id
    assert again.info.status == "FINISHED"


def test_a_whole_trial_takes_few_calls(proxy: Any, tmp_path: Path) -> None:
    """A further trial of a sweep has a second in all, and a call takes 10 to 30 ms."""
    sweep, trial = identities()
    proxy.start()
    open_tracker(tmp_path / "sweep", sweep, None).tag("rayseg.kind", "sweep")
    assert replay(tmp_path / "sweep", proxy.uri).complete
    run_dir = tmp_path / "sweep" / "trials" / "t1"
    tracker = open_tracker(run_dir, trial, None)
    tracker.attempt(1, {"workers": "1"})
    tracker.config({"head": {f"n{i}": i for i in range(80)}})
    for number in range(8):
        tracker.tag(f"tag{number}", "x")
    for step in range(1, 81):
        tracker.metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)
        tracker.attempt_metrics(1, {"system/cpu": 50.0}, step)
    tracker.attempt_over(1, Ending("FINISHED", "finished: 80 steps", 80, {"goodput": 0.9}))
    tracker.close("FINISHED")
    destination = MlflowRun(run_dir, proxy.uri)
    before = proxy.asked
    from rayseg.tracking.replay import bring

    assert bring(run_dir, destination).complete
    # experiment, own run, parent, create; attempt: own, create, params; config and its file; points and tags of both;
    # both ends, that of the run with a look for a note, and a last look for a twin
    assert proxy.asked - before <= 15


def test_the_note_of_a_run_says_why_it_ended_until_a_person_writes_one(
    server: Any, client: Any, tmp_path: Path
) -> None:
    _, trial = identities()
    tracker = open_tracker(tmp_path, trial.model_copy(update={"parent_key": None}), None)
    for said in ("paused at step 2 of 6", "no: attempt 2 goes on from step 2"):
        tracker.tag("stopped", said)
        assert replay(tmp_path, server.uri).complete
        assert client.get_run(run_id(tmp_path)).data.tags["mlflow.note.content"] == said
    client.set_tag(run_id(tmp_path), "mlflow.note.content", "mine: look at the poles")
    tracker.tag("stopped", "finished: 6 steps")
    assert replay(tmp_path, server.uri).complete
    run = client.get_run(run_id(tmp_path))
    assert (run.data.tags["mlflow.note.content"], run.data.tags["stopped"]) == (
        "mine: look at the poles",
        "finished: 6 steps",
    )

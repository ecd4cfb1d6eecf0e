"""What killed processes left open is closed by whoever finds it; a sweep's own run says how its trials stand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayseg.cluster import closing, ranking, standing
from rayseg.cluster.launch import Job
from rayseg.durable import try_lock
from rayseg.sweep.board import Event
from rayseg.sweep.journal import Result, Story
from rayseg.sweep.search import Donor
from rayseg.tracking.identity import RunIdentity, write_identity
from rayseg.tracking.spool import SpoolTracker
from rayseg.train import attempts, review
from rayseg.train.goodput import Goodput


def said(run_dir: Path, kind: str, *, attempt: int | None = None) -> list[str]:
    """What the spool says of the run or an attempt, read without our reader."""
    lines = [json.loads(line) for line in (run_dir / "tracking" / "spool.jsonl").read_text().splitlines()]
    field = {"tag": "value", "status": "status"}[kind]
    return [line[field] for line in lines if line["kind"] == kind and line.get("attempt") == attempt]


def begun(run_dir: Path, *, number: int = 1, step: int = 0, done: int = 7) -> Goodput:
    """A run in the middle of an attempt."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_identity(run_dir, RunIdentity(experiment="e", run_key=run_dir.name, run_name=run_dir.name))
    (run_dir / ".lock").touch()
    spent = Goodput(run_dir, write=True)
    spent.begin(step)
    SpoolTracker(run_dir).attempt(number, {"workers": "1"})
    spent._record["step"] = done
    spent._save()
    return spent


def test_what_a_killed_process_left_open_is_closed_and_what_lives_is_not(tmp_path):
    dead, paused, over, lives = (tmp_path / name for name in ("dead", "paused", "over", "lives"))
    begun(dead)
    spent = begun(paused)
    spent.end("paused", "paused at step 7 of 9")
    attempts.bury(paused, SpoolTracker(paused))
    SpoolTracker(paused).close("KILLED")
    begun(over).end("over", "finished: 7 steps")
    tracker = SpoolTracker(over)
    attempts.bury(over, tracker)
    tracker.close("FINISHED")
    begun(lives)
    sweep = tmp_path / "sweep"
    begun(sweep / "trials" / "t1")  # it was killed, but its sweep's driver lives, and starts it again
    (sweep / ".lock").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("spool.jsonl") if path.parents[1] != dead}
    with (lives / ".lock").open("w") as one, (sweep / ".lock").open("w") as other:
        assert try_lock(one)
        assert try_lock(other)
        assert closing.close_dead(tmp_path) == [dead]
    assert {path: path.read_bytes() for path in before} == before
    assert said(dead, "tag") == said(dead, "tag", attempt=1) == ["the process was killed"]
    assert said(dead, "status") == said(dead, "status", attempt=1) == ["KILLED"]
    assert closing.close_dead(tmp_path) == [lives, sweep / "trials" / "t1"], "nobody holds them any more"
    assert closing.close_dead(tmp_path) == []


def test_a_trial_whose_process_died_is_closed_with_its_sweep(tmp_path, monkeypatch):
    def job(run_dir: Path) -> Job:
        identity = RunIdentity(experiment="e", run_key=run_dir.name, run_name=run_dir.name)
        return Job(config={}, run_dir=str(run_dir), identity=identity, tracking_uri=None)

    failed = tmp_path / "failed"
    begun(failed)
    review.give_up(failed, "failed: oom_host: no memory left")
    assert ranking.close(job(failed), "failed", print) is None
    assert said(failed, "tag") == ["failed: oom_host: no memory left"]
    assert said(failed, "tag", attempt=1) == ["the process was killed"]
    assert said(failed, "status") == ["FAILED"]

    done = tmp_path / "done"  # killed between its summary and its last word to the tracker
    begun(done).end("over", "finished: 7 steps")
    state = review.State(step=7, best_step=7, best_miou=0.5, seconds=1.0)
    summary = review.summarise(state, steps=7, batch=4)
    (done / review.SUMMARY).write_text(summary.model_dump_json())
    assert ranking.close(job(done), "finished", print) == summary
    assert (said(done, "status"), said(done, "status", attempt=1)) == (["FINISHED"], ["FINISHED"])
    assert ranking.close(job(done), "finished", print) == summary
    assert said(done, "status") == ["FINISHED"]


def test_why_a_run_is_over_in_words(tmp_path):
    state = review.State(step=60, seconds=1.0)
    summary = review.summarise(state, steps=80, batch=4)
    assert review.why(tmp_path, summary) == "stopped at step 60"
    review.give_up(tmp_path, "stopped at rung 3 (step 60) by ASHA: mIoU 0.412 under the cut 0.447")
    assert review.why(tmp_path, summary).startswith("stopped at rung 3 (step 60) by ASHA")
    review.give_up(tmp_path / "gone", "no folder to write it to is no fault of its own")
    finished = review.summarise(state.model_copy(update={"step": 80}), steps=80, batch=4)
    assert review.why(tmp_path, finished) == "finished: 80 steps"


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([], "finished: 0 trials"),
        (["finished"], "finished: 1 trial"),
        (["finished", "stopped", "failed"], "finished: 3 trials, of which 1 was stopped and 1 failed"),
        (["stopped", "stopped"], "finished: 2 trials, of which 2 were stopped"),
    ],
)
def test_how_a_sweep_ended_in_words(outcomes, words):
    assert standing.ended(SimpleNamespace(outcomes=dict(enumerate(outcomes)))) == words


def test_the_best_is_written_when_it_rises_over_the_updates_of_all_trials(tmp_path):
    suggestions = {"a": SimpleNamespace(donor=None), "b": SimpleNamespace(donor=Donor("a", 20))}
    search = SimpleNamespace(suggestions=suggestions, heard={})
    tracker, heard = SpoolTracker(tmp_path), []
    story = Story({}, [Result("x", 5, 0.2)], {})
    tell = standing.following(heard.append, search, tracker, story)
    for key, step, miou in (("a", 10, 0.1), ("a", 20, 0.3), ("b", 30, 0.25), ("b", 40, 0.4)):
        search.heard[key] = step
        tell(Event("result", None, {"miou": miou}))
    tell(Event("finished", None, {}))
    assert len(heard) == 5
    lines = [json.loads(line) for line in (tmp_path / "tracking" / "spool.jsonl").read_text().splitlines()]
    assert [(line["step"], line["values"]) for line in lines] == [(20, {"best_miou": 0.3}), (40, {"best_miou": 0.4})]

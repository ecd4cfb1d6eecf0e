"""Finals through Ray: asked for when the sweep is over, killed and resumed; tied, won, with MLflow and without."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from sweeping import JOB, ended, events, finish, folder, told_once, wait_for

from rayseg.data import card as cards
from rayseg.data import shards
from rayseg.tracking import registry
from rayseg.tracking.mlflow_run import client
from rayseg.tracking.server import healthy, server_command
from rayseg.train import review

SHORT = ("--set", "train.steps=4")
TWO = ("--preset", "two", *SHORT)
RATES = ("--preset", "two", "--set", "head.dilation=1", "--search", "optim.lr=0.05,1e-7", "--set", "train.steps=12")


def judged(path):
    return json.loads((path / "finals.json").read_text())


def counts(path, key):
    """Read what the best evaluation of a trial counted."""
    best = review.best_commit(path / "trials" / key)
    with np.load(best.path / "evaluation.npz") as arrays:
        return arrays["image_hits"], arrays["image_truth"], arrays["image_found"]


def plain_miou(hits, truth, found):
    sums = [[int(each[:, c].sum()) for each in (hits, truth, found)] for c in range(hits.shape[1])]
    ious = [h / (t + f - h) for h, t, f in sums if t + f - h]
    return sum(ious) / len(ious)


def listed(path):
    with (path / "ranking.csv").open() as file:
        return [row["trial"] for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asked_for_later_killed_and_resumed_they_run_each_seed_once(sweep, tmp_path):
    path = folder(tmp_path, "f")
    lines = finish(sweep(*TWO, "--name", "f"))
    said = [line for line in lines if line.startswith("best two: ")]
    assert len(said) == 1
    assert "seeds were not varied (--seeds), so no champion is named" in said[0]
    first = judged(path)
    assert first["verdict"].startswith("open: ")
    assert (first["seeds_varied"], first["images"], len(first["pairs"])) == (False, 5, 1)
    assert not (path / "champion.json").exists()
    own = listed(path)

    process = sweep(*TWO, "--name", "f", "--resume", "--seeds", "2", "--concurrent", "1")
    wait_for(lambda: len(ended(path)) == 3 or process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(ended(path)) == 3, "it was to be killed between the finals' two runs"

    lines = finish(sweep(*TWO, "--name", "f", "--resume"))
    suggested = told_once(path)
    assert len(suggested) == 4
    assert set(ended(path).values()) == {"finished"}
    finals = [(e["final"], e["point"]["seed"]) for e in events(path, "suggest") if "final" in e]
    assert sorted(finals) == sorted((key, 1) for key in own)
    assert listed(path) == own, "a further seed is no row of the ranking"
    assert any(line.startswith("finals: the best 2") for line in lines)

    found = judged(path)
    assert found["seeds_varied"]
    assert found["verdict"].endswith("; 5 images are too few to decide, so no champion is named")
    means = []
    for finalist in found["finalists"]:
        assert finalist["seeds"] == [0, 1]
        assert finalist["trials"][0] == finalist["key"]
        scores = [plain_miou(*counts(path, key)) for key in finalist["trials"]]
        assert finalist["miou"] == pytest.approx(scores, abs=1e-9)
        bests = [review.read_summary(path / "trials" / key).best_miou for key in finalist["trials"]]
        assert finalist["miou"] == pytest.approx(bests, abs=1e-9)
        means.append(sum(scores) / 2)
    (pair,) = found["pairs"]
    assert (pair["best"], pair["other"]) == tuple(f["key"] for f in found["finalists"])
    assert pair["difference"] == pytest.approx(means[0] - means[1], abs=1e-9)
    assert pair["difference"] >= 0
    assert pair["low"] < pair["difference"] < pair["high"]

    process = sweep(*TWO, "--name", "f", "--resume", "--seeds", "3")
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, output.splitlines()[-1]) == (
        2,
        "error: seeds = 3 at a resume, the sweep has 2 (--resume): leave it out",
    )


@pytest.fixture
def server(tmp_path):
    """A real MLflow server: its start, and its address; what was started ends with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv, environment = server_command(tmp_path, port)
    started = []

    def start():
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(argv, env=environment, start_new_session=True, **quiet))
        uri = f"http://127.0.0.1:{port}"
        assert healthy(uri, 120)
        return uri

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def job(root, folder_of_shards, *arguments, uri=None):
    """Run the tiny sweep to its end, with MLflow at `uri`; give its lines."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW"))}
    environment = kept | {"RAYSEG_HOME": str(root / "home"), "HOME": str(root)}
    environment |= {"RAYSEG_TRACKING_URI": uri} if uri else {}
    command = [sys.executable, str(JOB), "--shards", str(folder_of_shards), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def many(tmp_path):
    """24 + 24 drawn scenes of 48 x 64 pixels: enough images to decide."""
    whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    whole["generated"] |= {"height": 48, "width": 64}
    whole["splits"] = {"train": {"count": 24}, "val": {"count": 24}}
    shards.write(cards.from_dict(whole), None, tmp_path / "shards", workers=1)
    return tmp_path / "shards"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_winner_found_without_mlflow_is_registered_by_the_resume_and_a_tie_leaves_it_alone(tmp_path, many, server):
    lines = job(tmp_path, many, *RATES, "--seeds", "3", "--name", "rates")
    path = folder(tmp_path, "rates")
    found = judged(path)
    assert found["verdict"] == f"winner {found['finalists'][0]['key']}"
    assert "the champion is registered once MLflow is up: rayseg up" in lines
    assert any(line.startswith("winner: ") for line in lines)
    rates = {event["key"]: event["point"]["optim.lr"] for event in events(path, "suggest")}
    assert rates[found["finalists"][0]["key"]] == 0.05

    uri = server()
    lines = job(tmp_path, many, *RATES, "--name", "rates", "--resume", uri=uri)
    best = found["finalists"][0]
    assert f"champion: tiny-scenes version 1 (trial {best['key']}), models:/tiny-scenes@champion" in lines
    champion = client(uri).get_model_version_by_alias("tiny-scenes", "champion")
    assert champion.tags["miou"] == f"{best['mean']:.4f}"
    run = client(uri).get_run(champion.run_id)
    assert run.data.tags["rayseg.run_key"] == f"rates/{best['key']}"
    names = {each.path for each in client(uri).list_artifacts(champion.run_id, "best")}
    assert "best/model.safetensors" in names
    assert not any(name.endswith((".pkl", ".pt", ".pth")) for name in names)

    lines = job(tmp_path, many, *TWO, "--seeds", "2", "--name", "alike", uri=uri)
    assert judged(folder(tmp_path, "alike"))["verdict"].startswith("tie: ")
    assert any(line.startswith("tie: ") and line.endswith("; no champion is named") for line in lines)
    assert client(uri).get_model_version_by_alias("tiny-scenes", "champion").run_id == champion.run_id
    assert len(client(uri).search_model_versions("name = 'tiny-scenes'")) == 1
    assert registry.read(folder(tmp_path, "alike")) is None
    (parent,) = [
        run
        for run in client(uri).search_runs([run.info.experiment_id], "tags.`rayseg.kind` = 'sweep'")
        if run.info.run_name == "alike"
    ]
    assert parent.data.tags["verdict"].startswith("tie: ")
    finals = client(uri).search_runs([run.info.experiment_id], "tags.finals = 'true'")
    assert sorted(each.data.tags["searched.seed"] for each in finals) == ["1", "1", "1", "1", "2", "2"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_finalist_goes_on_to_its_end(sweep, tmp_path):
    arguments = ("--preset", "asha", "--concurrent", "1", "--trials", "4", "--seeds", "2", "--top", "4")
    lines = finish(sweep(*arguments, "--name", "asha"))
    path = folder(tmp_path, "asha")
    told_once(path)
    found = judged(path)
    assert len(found["finalists"]) == 4
    outcomes = ended(path)
    stopped = [f for f in found["finalists"] if outcomes[f["key"]] == "stopped"]
    assert stopped, "the test needs a trial that ASHA stopped"
    for finalist in found["finalists"]:
        assert [review.read_summary(path / "trials" / key).step for key in finalist["trials"]] == [16, 16]
        assert (finalist["trials"][0] == finalist["key"]) == (finalist not in stopped)
    assert any("finals: stopped trial" in line for line in lines)
    assert sum(" - " in line and "[" in line for line in lines) == 3

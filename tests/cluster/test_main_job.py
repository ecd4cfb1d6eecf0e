"""The main job as its user types it: `ray job submit jobs/x.py` on the local stack, reviewed in MLflow."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from rayseg.tracking import mlflow_run

HERE = Path(__file__).parent


@pytest.fixture
def submitted(stack, checkout, fresh_shell, tiny_shards, home_folder):
    """Submit the tiny sweep through the plain `ray` command, once; give its lines."""
    kept = home_folder / "main-job.txt"
    if kept.exists():
        return kept.read_text().splitlines()
    for name in ("tiny_sweep.py", "tiny_recipe.toml"):
        shutil.copy(HERE / name, checkout / "jobs" / name)
    command = ["ray", "job", "submit", "--", "jobs/tiny_sweep.py", "--preset", "two", "--name", "main"]
    done = subprocess.run(
        [*command, "--shards", str(tiny_shards)],
        cwd=checkout,
        env=fresh_shell,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept.write_text(done.stdout)
    return done.stdout.splitlines()


def test_a_submitted_sweep_can_be_reviewed_in_mlflow(submitted, stack, tmp_path):
    client = mlflow_run.client(stack.tracking_uri)
    experiment = client.get_experiment_by_name("tiny-scenes").experiment_id
    found = client.search_runs([experiment])
    attempts = [run for run in found if run.data.tags["rayseg.kind"] == "attempt"]
    runs = {run.info.run_name: run for run in found if run not in attempts}
    parent = runs.pop("main")
    assert len(runs) == 2
    assert parent.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} >= {"ranking.csv", "config.json"}
    assert {a.data.tags["mlflow.parentRunId"] for a in attempts} == {run.info.run_id for run in runs.values()}
    assert all(a.data.metrics["end_step"] == 16 and a.info.status == "FINISHED" for a in attempts)
    best = []
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params["head.name"] == "gald"
        assert run.data.params["head.dilation"] == run.data.tags["searched.dilation"]
        points = client.get_metric_history(run.info.run_id, "val/miou")
        assert [p.step for p in points] == list(range(2, 17, 2)), name
        paths = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert paths >= {"config.json", "review", "best"}
        reviewed = {f.path for f in client.list_artifacts(run.info.run_id, "review")}
        assert reviewed >= {f"review/{name}" for name in ("per_class.csv", "confusion_matrix.png", "hardest.jpg")}
        weights = {f.path: f.file_size for f in client.list_artifacts(run.info.run_id, "best")}
        assert weights["best/model.safetensors"] > 1_000_000
        with open(client.download_artifacts(run.info.run_id, "review/per_class.csv", str(tmp_path))) as file:
            table = list(csv.DictReader(file))
        assert len(table) == 11
        best.append(run.data.metrics["best_miou"])
        assert max(p.value for p in points) == pytest.approx(best[-1])
        defined = [float(row["iou"]) for row in table if row["iou"]]
        assert sum(defined) / len(defined) == pytest.approx(best[-1], abs=1e-4)
    assert parent.data.metrics["best_miou"] == pytest.approx(max(best))
    assert {run.data.params["head.dilation"] for run in runs.values()} == {"1", "2"}
    assert len({run.data.tags["fingerprint"] for run in runs.values()}) == 2


def test_what_the_user_reads(submitted):
    text = "\n".join(submitted)
    assert "2 trials, 2 different models, no two trials alike:" in text
    assert "eta " in text
    assert "review it at http://127.0.0.1:" in text
    start = next(i for i, line in enumerate(submitted) if line.startswith("rank"))
    rows = [line.split() for line in submitted[start + 1 : start + 3]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert float(rows[0][3]) >= float(rows[1][3])

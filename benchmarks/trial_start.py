"""What a further trial of a sweep costs: in our slots, and in the stock pattern, a TorchTrainer inside a Tune function.

The stock pattern is the one of Ray's documentation ("Hyperparameter Tuning with Ray Tune"): each trial builds its own
trainer, and a `TuneReportCallback` passes the reports on. Both run the same trials, one at a time, in turn. The gap
between the end of one run and the begin of the next is what the platform adds; a run is from its first line, before
the model is built, to its summary, after its pictures are drawn. The first trial of each is left out.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import measure
from rayseg import config as configs
from rayseg.cluster.connect import ray_session
from rayseg.cluster.launch import Job
from rayseg.cluster.watch import Resources, Watch
from rayseg.config import RunConfig
from rayseg.data import card as cards
from rayseg.data import shards
from rayseg.schema import parse, to_dict
from rayseg.sweep.fixed import Fixed
from rayseg.sweep.journal import Journal
from rayseg.sweep.recorded import Recorded
from rayseg.sweep.trial import Trial
from rayseg.tracking.mlflow_tracker import RunIdentity
from rayseg.train.review import read_summary

STEPS = 2


def trials(data: Path, workers: int, count: int) -> list[Trial]:
    """Make trials of one tiny model that differ in the learning rate."""
    made = []
    for number in range(1, count + 1):
        point = {"optim.lr": number / 100}
        made.append(Trial(number, f"t{number}", point, _config(data, workers, point)))
    return made


def _config(data: Path, workers: int, point: Mapping[str, Any]) -> RunConfig:
    plain = {
        "data": {"shards": str(data)},
        "backbone": {"name": "resnet10t", "output_stride": 16},
        "head": {"name": "gald", "channels": 16},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": STEPS, "batch": 4, "eval_every": STEPS, "workers": workers, "shown_images": 1},
    }
    return configs.from_dict(configs.merged(plain, point))


def job(trial: Trial, folder: Path) -> Job:
    """Make a trial's job."""
    identity = RunIdentity(experiment="bench", run_key=trial.key, run_name=trial.key, parent_key=None, tags={})
    return Job(config=to_dict(trial.config), run_dir=str(folder / trial.key), identity=identity, tracking_uri=None)


def ours(made: Sequence[Trial], folder: Path, workers: int) -> None:
    """Run the trials in one slot."""
    from rayseg.cluster.tune import run_trials

    with closing(Journal(folder)) as journal:
        journal.write("plan", {})
        watch = Watch(
            Recorded(Fixed(made), journal), lambda t: job(t, folder), lambda event: None, pause=folder / "pause"
        )
        run_trials(watch, Resources(workers, 1, 0.0, 1), storage=folder / "tune")


def stock(made: Sequence[Trial], folder: Path, workers: int) -> None:
    """Run the trials as Ray's documentation has it."""
    from ray import tune

    jobs = [to_dict(job(trial, folder)) for trial in made]
    tune.Tuner(
        tune.with_resources(_stock_trial, {"node:__internal_head__": 0.001}),
        param_space={"job": tune.grid_search(jobs), "workers": workers},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()


def _stock_trial(params: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        _stock_worker,
        train_loop_config=params["job"],
        scaling_config=ray.train.ScalingConfig(num_workers=params["workers"], resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="train", storage_path=params["job"]["run_dir"] + "/ray", callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _stock_worker(plain: dict[str, Any]) -> None:
    import ray.train

    from rayseg.cluster import launch
    from rayseg.cluster.runtime import TrainWorker, TrialRuntime

    class Stock(TrialRuntime):
        def report(self, metrics: Mapping[str, float]) -> None:
            ray.train.report(dict(metrics))

    launch.run(parse(Job, plain, "job"), Stock(Path(plain["run_dir"]), TrainWorker(), lambda f: True, pause=None))


def spans(made: Sequence[Trial], folder: Path) -> list[tuple[float, float, float]]:
    """Give each run's begin and end, by its lock and its summary, and the seconds of its training loop."""
    found = []
    for trial in made:
        run_dir = folder / trial.key
        summary = read_summary(run_dir)
        assert summary is not None
        assert summary.step == STEPS
        found.append(((run_dir / ".lock").stat().st_mtime, (run_dir / "summary.json").stat().st_mtime, summary.seconds))
    return sorted(found)


def gaps(found: Sequence[tuple[float, float, float]]) -> list[float]:
    """Give the seconds between one run's end and the next one's begin."""
    return [after[0] - before[1] for before, after in itertools.pairwise(found)]


def beyond(found: Sequence[tuple[float, float, float]]) -> list[float]:
    """Give the seconds from one run's end to the next one's, without that one's training loop."""
    return [after[1] - before[1] - after[2] for before, after in itertools.pairwise(found)]


@contextmanager
def data() -> Iterator[tuple[Path, Path]]:
    """Draw a handful of scenes; give their shards, and a folder for runs."""
    whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    whole["generated"] |= {"height": 48, "width": 64}
    whole["splits"] = {"train": {"count": 24}, "val": {"count": 5}}
    with tempfile.TemporaryDirectory() as root:
        shards.write(cards.from_dict(whole), None, Path(root) / "shards", workers=1)
        yield Path(root) / "shards", Path(root)


def row(name: str, found: Sequence[tuple[float, float, float]], base: float) -> str:
    """Write a pattern's line: medians over its further trials, and how many times ours."""
    gap, more = statistics.median(gaps(found)), statistics.median(beyond(found))
    every = " ".join(f"{value:.2f}" for value in gaps(found))
    return f"| {name} | {gap:.2f} | {every} | {more:.2f} | {gap / base:.0f} |"


def main() -> None:
    """Measure one worker and two, both patterns in turn."""
    arguments = measure.arguments(__doc__ or "")
    count = 3 if arguments.quick else 5
    sections = []
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        shards_at, root = stack.enter_context(data())
        stack.enter_context(ray_session(num_cpus=2, dashboard=True))
        for workers in (1, 2):
            made = trials(shards_at, workers, count)
            measured = {}
            for name, pattern in (("ours", ours), ("stock", stock)):
                folder = root / f"{name}{workers}"
                folder.mkdir()
                pattern(made, folder, workers)
                measured[name] = spans(made, folder)
                print(name, workers, json.dumps([[round(v, 2) for v in span] for span in measured[name]]), flush=True)
            base = statistics.median(gaps(measured["ours"]))
            lines = [
                f"### Trials of {workers} worker(s), {STEPS} steps each",
                "",
                "| pattern | seconds a further trial adds | each | with the run's start and pictures | times ours |",
                "|---|---|---|---|---|",
                *(row(name, found, base) for name, found in measured.items()),
            ]
            sections.append("\n".join(lines))
    busy = f"{load:.0f} when it began and {os.getloadavg()[0]:.0f} when it ended, on {os.cpu_count()} cores"
    sections.append(f"Other work ran on the machine: the load average was {busy}.")
    measure.publish("trial_start", "What a further trial costs", sections, write=arguments.write)


if __name__ == "__main__":
    main()

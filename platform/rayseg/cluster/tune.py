"""A sweep on Ray Tune: trials of one worker run inside the Tune actor, trials of several run Ray Train under Tune.

A further trial inside a reused actor costs about a tenth of a second; Ray Train under Tune costs 13 s and more, so it
is kept for trials that need it. What happened is in our journal and in the trials' own commits; Tune's state is not
read, so a sweep whose driver was killed goes on from what is on disk. Import this only with Ray connected: Ray reads
its settings when it is imported.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.util.queue import Empty, Queue

from rayseg.cluster import launch
from rayseg.cluster.launch import Job
from rayseg.cluster.runtime import TuneRuntime
from rayseg.cluster.watch import Resources, Watch, Work
from rayseg.schema import parse, to_dict
from rayseg.sweep.asha import Asha


def run_trials(work: Sequence[Work], resources: Resources, watch: Watch, *, storage: Path, asha: Asha | None) -> None:
    """Run every trial that is not over yet, to its end or to ASHA's verdict. Ray must be connected."""
    jobs = {w.trial.key: to_dict(w.job) for w in work}
    for job in jobs.values():
        (Path(job["run_dir"]) / launch.FAILED).unlink(missing_ok=True)
    shutil.rmtree(storage, ignore_errors=True)
    alone = resources.workers == 1
    tune.Tuner(
        tune.with_resources(_run_here if alone else _run_under, _request(resources)),
        param_space={
            "job": tune.grid_search(list(jobs.values())),
            "workers": resources.workers,
            "gpus": resources.gpus_per_worker,
        },
        tune_config=tune.TuneConfig(
            scheduler=Rungs(asha, watch),
            max_concurrent_trials=resources.concurrent,
            reuse_actors=alone,
            trial_name_creator=_key,
            trial_dirname_creator=_key,
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            callbacks=[Callback(watch)],
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    ).fit()


def _key(trial: Any) -> str:
    return Path(trial.config["job"]["run_dir"]).name


def _request(resources: Resources) -> dict[str, float]:
    if resources.workers > 1:
        return {"node:__internal_head__": 0.001}  # the driver takes no CPU: two of them on two CPUs would wait for ever
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus_per_worker, **gpus}


def _run_here(params: dict[str, Any]) -> None:
    job = parse(Job, params["job"], "job")
    runtime = TuneRuntime(Path(job.run_dir))
    launch.run(job, runtime)
    if runtime.stop() == "end":
        sys.exit(0)  # what Tune raised to end this thread; a plain return would wait for Tune to ask for more


def _run_under(params: dict[str, Any]) -> None:
    """Forward what the workers report to Tune; when Tune gives the trial up, `tune.report` raises and all ends."""
    job = parse(Job, params["job"], "job")
    queue = Queue(actor_options={"num_cpus": 0})
    fault: list[BaseException] = []

    def train() -> None:
        try:
            launch.train_on_workers(job, workers=params["workers"], gpus=params["gpus"], on_report=queue.put)
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive() or not queue.empty():
        try:
            tune.report(queue.get(timeout=0.5))
        except Empty:
            continue
    if fault:
        raise fault[0]


class Forgetful:
    """Tune pickles schedulers and callbacks into a state that is never read here: they give it nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Rungs(Forgetful, FIFOScheduler):
    """Asks our ASHA at every report."""

    def __init__(self, asha: Asha | None, watch: Watch) -> None:
        super().__init__()
        self.asha, self.watch = asha, watch

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop the trial where there is a verdict on it."""
        verdict = self.asha.judge(_key(trial), result["step"], result["miou"]) if self.asha else None
        if verdict is None:
            return self.CONTINUE
        self.watch.stopped(_key(trial), str(verdict))
        return self.STOP


class Callback(Forgetful, tune.Callback):
    """Passes what Tune says on to the watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again."""
        self.watch.start(_key(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported."""
        self.watch.result(_key(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial did all its steps, or the scheduler gave it up."""
        self.watch.end(_key(trial), failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed more often than it is started again."""
        self.watch.end(_key(trial), failed=True)

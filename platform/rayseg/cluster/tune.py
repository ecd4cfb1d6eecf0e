"""A sweep on Ray Tune: any search of ours decides, Tune keeps the slots and says what happens in them.

What happened is in our journal and in the trials' own commits; Tune's state is not read, so a sweep whose driver was
killed goes on from what is on disk. Import this only with Ray connected: Ray reads its settings when it is imported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from rayseg.cluster import slots
from rayseg.cluster.launch import Job
from rayseg.cluster.watch import Resources, Watch
from rayseg.schema import parse, to_dict

FIGURES = "figures"


def run_trials(watch: Watch, resources: Resources, *, storage: Path) -> None:
    """Run what the search suggests until it is done, or until the sweep is to pause. Ray must be connected."""
    shutil.rmtree(storage, ignore_errors=True)
    try:
        tune.Tuner(
            tune.with_resources(InSlot, _request(resources)),
            param_space={"resources": list(resources), "storage": str(storage / "slots")},
            tune_config=tune.TuneConfig(
                search_alg=Suggested(watch),
                num_samples=-1,
                scheduler=Verdicts(watch, resources.concurrent),
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
                trial_name_creator=_key,
                trial_dirname_creator=_key,
            ),
            run_config=tune.RunConfig(
                name=storage.name,
                storage_path=str(storage.parent),
                callbacks=[Told(watch)],
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    except Exception:
        if watch.fault is not None:
            raise watch.fault from None  # what Tune makes of it is a traceback in a traceback
        raise


def _key(trial: Any) -> str:
    return Path(trial.config["job"]["run_dir"]).name


def _request(resources: Resources) -> dict[str, float]:
    if resources.workers > 1:
        return {"node:__internal_head__": 0.001}  # the slot takes no CPU: two of them on two CPUs would wait for ever
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus_per_worker, **gpus}


class InSlot(tune.Trainable):
    """A trial as Tune sees it; the process that has it keeps its slot for the next one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Open the slot, and start its first job."""
        self._slot = slots.open_slot(Resources(*config["resources"]), Path(config["storage"]))
        self._slot.begin(parse(Job, config["job"], "job"))

    def step(self) -> dict[str, Any]:
        """Let the job go on to its next report, or to its end."""
        event = self._slot.next()
        if event.over is None:
            return {FIGURES: event.figures}
        return {"over": event.over, "note": event.note, "done": True}

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Start the next job, once the one before, if it was stopped, has closed itself."""
        if not self._slot.leave():
            return False
        self._slot.begin(parse(Job, config["job"], "job"))
        return True

    def cleanup(self) -> None:
        """End the job, if it was stopped, and the slot."""
        self._slot.leave()
        self._slot.close()


class Forgetful:
    """Tune pickles what it is given into a state that is never read here: these give it nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Suggested(Forgetful, Searcher):
    """Asks the search what to run."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def suggest(self, trial_id: str) -> Any:
        """Give the next job's config; None where the search waits."""
        answer = _guarded(self.watch, self.watch.suggest)
        if isinstance(answer, Job):
            return {"job": to_dict(answer)}
        return Searcher.FINISHED if answer == "done" else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The watch hears of it through the callback."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal has it all."""

    def get_state(self) -> dict[str, Any]:
        """Nothing either."""
        return {}


class Verdicts(Forgetful, FIFOScheduler):
    """Hands every report to the search, and stops where it says so."""

    def __init__(self, watch: Watch, concurrent: int) -> None:
        super().__init__()
        self.watch, self.concurrent = watch, concurrent

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Have Tune keep every slot; by itself it keeps one, and ends the others where trials wait for each other."""
        if self.concurrent:
            tune_controller._tune_controller._actor_cache.increase_max(trial.placement_group_factory, self.concurrent)
            self.concurrent = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop the trial where there is a reason to."""
        prefix = f"{FIGURES}/"
        figures = {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}
        reason = _guarded(self.watch, lambda: self.watch.result(_key(trial), figures))
        return self.CONTINUE if reason is None else self.STOP


class Told(Forgetful, tune.Callback):
    """Passes on when trials start and end."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again."""
        _guarded(self.watch, lambda: self.watch.start(_key(trial)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial did all its steps, or failed by itself, or was stopped; a paused one is not over."""
        last = trial.last_result or {}
        if last.get("over") != "paused":
            failed, note = last.get("over") == "failed", last.get("note", "")
            _guarded(self.watch, lambda: self.watch.end(_key(trial), failed=failed, note=note))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died more often than it is started again."""
        _guarded(self.watch, lambda: self.watch.end(_key(trial), failed=True))


def _guarded(watch: Watch, call: Callable[[], Any]) -> Any:
    """Keep what is raised here: Tune passes on a text of it."""
    try:
        return call()
    except Exception as error:
        watch.fault = watch.fault or error
        raise

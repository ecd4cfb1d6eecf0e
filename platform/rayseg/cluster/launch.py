"""One run on several workers: Ray Train launches them, gloo or NCCL joins them, `fit` runs in each.

Ray Train's checkpoints are not used: a restarted worker group resumes from the run's own newest commit.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rayseg import config as configs
from rayseg.errors import RaysegError, TrainingError
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking import NullTracker, Tracker
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker
from rayseg.train.commit import write_atomically
from rayseg.train.loop import fit

FAILED = "failed.json"
"""A run that failed by its own fault says so here; it is not tried again before somebody starts it anew."""


class Job(Value):
    """Everything a worker needs to run one config, in plain types, so that it travels without a pickle of ours."""

    config: dict[str, Any]
    run_dir: str
    identity: RunIdentity
    tracking_uri: str | None
    threads: int = 1


def run(job: Job, runtime: Any) -> None:
    """Run `fit` on this rank; lines of progress go to `log.txt` of the run directory.

    A fault of the run itself (a bad config, a loss that is not finite) is written down and ends it; a fault of the
    machine is raised, and the run is started again.
    """
    torch.set_num_threads(job.threads)
    run_dir = Path(job.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if fault_of(run_dir) is not None:
        return  # started again after its own fault: that does not go away
    chief = runtime.rank == 0
    tracker: Tracker = open_tracker(run_dir, job.identity, job.tracking_uri) if chief else NullTracker()
    with (run_dir / "log.txt").open("a", buffering=1) as log:
        try:
            fit(configs.from_dict(job.config), runtime, tracker, show=lambda line: print(line, file=log))
        except RaysegError as error:
            print(f"error: {error}", file=log)
            record_fault(run_dir, error)
            tracker.tag("stopped", str(error))
            tracker.close("FAILED")
            if runtime.world > 1:
                raise  # the other ranks wait for this one
        except Exception:
            traceback.print_exc(file=log)
            raise


def record_fault(run_dir: Path, error: RaysegError) -> None:
    """Write down the fault that ended a run; the first one stands."""
    if fault_of(run_dir) is None:
        fields = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        write_atomically(run_dir / FAILED, json.dumps(fields))


def fault_of(run_dir: Path) -> RaysegError | None:
    """Read the fault that ended a run, as the error that it was; None where there is none."""
    try:
        fields = json.loads((run_dir / FAILED).read_text())
    except OSError:
        return None
    kinds = {kind.__name__: kind for kind in RaysegError.__subclasses__()}
    return kinds.get(fields["kind"], TrainingError)(fields["what"], fields["where"], fields["fix"])


def train_on_workers(
    job: Job, *, workers: int, gpus: float, on_report: Callable[[Mapping[str, Any]], None] | None = None
) -> None:
    """Run one job on `workers` DDP workers and wait for its end. Ray must be connected.

    `on_report(metrics)` is called in Ray Train's controller process, so it must be picklable.

    Raises:
        RaysegError: the run's own fault; or TrainingError, the workers failed more often than a run is restarted.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config=to_dict(job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.threads} | ({"GPU": gpus} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=300),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg] # Train V2's, of which the checker sees the old one
            name=f"ray-{uuid.uuid4().hex[:8]}",  # never twice: Ray would resume its own snapshot, not our commit
            storage_path=str(Path(job.run_dir) / "ray"),
            callbacks=[_forwarder(on_report)] if on_report else [],
            failure_config=ray.train.FailureConfig(max_failures=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        if fault_of(Path(job.run_dir)) is None:
            raise TrainingError(_last_line(error), job.run_dir, "read log.txt there") from error
    if (fault := fault_of(Path(job.run_dir))) is not None:
        raise fault


def _worker(plain: dict[str, Any]) -> None:
    from rayseg.cluster.runtime import RayTrainRuntime

    job = parse(Job, plain, "job")
    run(job, RayTrainRuntime(Path(job.run_dir)))


def _forwarder(on_report: Callable[[Mapping[str, Any]], None]) -> Any:
    from ray.train import UserCallback

    class Forward(UserCallback):
        """Passes rank 0's figures on. It swallows its own errors: one would fail the training."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            try:
                on_report(metrics[0])
            except Exception as error:
                print(f"warning: a report could not be passed on: {error}")

    return Forward()


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

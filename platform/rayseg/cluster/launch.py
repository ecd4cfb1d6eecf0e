"""One run as somebody else starts it: the job in plain types, `fit` on a rank, the fault that ended it."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from rayseg import config as configs
from rayseg.durable import write_atomically
from rayseg.errors import RaysegError, from_fields
from rayseg.schema import Value
from rayseg.tracking import NullTracker, Tracker
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker
from rayseg.train.loop import fit
from rayseg.train.runtime import Runtime

FAILED = "failed.json"
"""A run that failed by its own fault says so here; it is not tried again before somebody starts it anew."""


Over = Literal["finished", "paused", "failed"]
"""How `fit` came to its end on a rank; a run that its scheduler gave up is `finished` too."""


class Job(Value):
    """Everything a worker needs to run one config, in plain types, so that it travels without a pickle of ours.

    Each worker computes on `threads` threads. A file at `pause` asks the run to pause.
    """

    config: dict[str, Any]
    run_dir: str
    identity: RunIdentity
    tracking_uri: str | None
    threads: int = 1
    pause: str | None = None


def run(job: Job, runtime: Runtime) -> Over:
    """Run `fit` on this rank; lines of progress go to `log.txt` of the run directory.

    A fault of the run itself (a bad config, a loss that is not finite) is written down and ends it; a fault of the
    machine is raised, and the run is started again.
    """
    torch.set_num_threads(job.threads)
    run_dir = Path(job.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if fault_of(run_dir) is not None:
        return "failed"  # started again after its own fault: that does not go away
    tracker: Tracker = open_tracker(run_dir, job.identity, job.tracking_uri) if runtime.rank == 0 else NullTracker()
    with (run_dir / "log.txt").open("a", buffering=1) as log:
        try:
            summary = fit(configs.from_dict(job.config), runtime, tracker, show=lambda line: print(line, file=log))
        except RaysegError as error:
            _wind_up(run_dir, error, tracker, log)
            return "failed"
        except Exception:
            traceback.print_exc(file=log)
            raise
    if summary is None:
        tracker.close("KILLED")
    return "finished" if summary else "paused"


def _wind_up(run_dir: Path, error: RaysegError, tracker: Tracker, log: TextIO) -> None:
    """Leave word of a fault wherever that goes: where a disk is full, each of these may fail on its own."""
    with suppress(OSError, RaysegError):
        record_fault(run_dir, error)
    with suppress(OSError, RaysegError):
        print(f"error: {error}", file=log)
    with suppress(OSError, RaysegError):
        tracker.tag("stopped", f"failed: {error.what}")
        tracker.close("FAILED")


def record_fault(run_dir: Path, error: RaysegError) -> None:
    """Write down the fault that ended a run; the first one stands."""
    if fault_of(run_dir) is None:
        write_atomically(run_dir / FAILED, json.dumps(error.fields()))


def fault_of(run_dir: Path) -> RaysegError | None:
    """Read the fault that ended a run, as the error that it was; None where there is none."""
    try:
        return from_fields(json.loads((run_dir / FAILED).read_text()))
    except OSError:
        return None

"""What a driver knows of its trials: what each takes, what happened to it, which are left to run."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rayseg.cluster.launch import Job, fault_of
from rayseg.config import RunConfig
from rayseg.errors import CheckpointError, ClusterError
from rayseg.sweep.journal import Journal, Outcome, Story
from rayseg.sweep.lines import Event
from rayseg.sweep.trial import Trial
from rayseg.train.review import read_summary


class Resources(NamedTuple):
    """What one trial takes and how many run at once."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    concurrent: int


def room_for(config: RunConfig, total: Mapping[str, float], concurrent: int | None = None) -> Resources:
    """Say what a run takes of a cluster with these resources, and how many such runs fit at once.

    On CPUs a run gets all cores that the others leave; on GPUs a GPU a worker and a core a loading thread.

    Raises:
        ClusterError: not even one fits. `concurrent` overrides that, for a cluster that grows on demand.
    """
    workers, cores = config.train.workers, int(total.get("CPU", 0))
    gpus = 1.0 if total.get("GPU", 0) >= 1 else 0.0
    cpus = config.data.loader_threads if gpus else max(1, cores // (workers * concurrent)) if concurrent else 1
    room = cores // (cpus * workers)
    if gpus:
        room = min(room, int(total["GPU"] // workers))
    if room < 1 and concurrent is None:
        raise ClusterError(
            f"{workers} workers with {cpus} CPU{' and a GPU' if gpus else ''} each do not fit into "
            f"{cores} CPUs and {total.get('GPU', 0):g} GPUs",
            "cluster",
            "lower train.workers, add nodes, or say --concurrent where it autoscales",
        )
    return Resources(workers, cpus, gpus, min(room, concurrent) if concurrent and room else concurrent or room)


class Work(NamedTuple):
    """A trial and the job that runs it."""

    trial: Trial
    job: Job


class Watch:
    """Hears of every report, writes the journal and tells the user."""

    def __init__(self, work: Sequence[Work], journal: Journal, say: Callable[[Event], None]) -> None:
        self.trials = {w.trial.key: w for w in work}
        self.journal, self.say = journal, say
        self.reasons: dict[str, str] = {}

    def stopped(self, key: str, reason: str) -> None:
        """Remember why the scheduler gave a trial up, before anything else can happen to it."""
        self.reasons[key] = reason

    def start(self, key: str) -> None:
        """Tell that a trial starts."""
        self.say(Event("start", self.trials[key].trial, {}))

    def result(self, key: str, figures: Mapping[str, Any]) -> None:
        """Write down a report."""
        self.journal.write("result", {"key": key, "step": figures["step"], "miou": figures["miou"]})
        self.say(Event("result", self.trials[key].trial, figures))

    def end(self, key: str, *, failed: bool) -> None:
        """Write down how a trial ended."""
        run_dir = Path(self.trials[key].job.run_dir)
        failed = failed or fault_of(run_dir) is not None
        outcome: Outcome = "failed" if failed else "stopped" if key in self.reasons else "finished"
        reason = self.reasons.get(key, "")
        self.journal.write("end", {"key": key, "outcome": outcome, "reason": reason})
        self.say(Event(outcome, self.trials[key].trial, {"reason": reason or (_fault(run_dir) if failed else "")}))


def _fault(run_dir: Path) -> str:
    """Say in one line why a trial failed: its own fault, or the last line of its log."""
    if (fault := fault_of(run_dir)) is not None:
        return str(fault)
    log = run_dir / "log.txt"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "its process ended; see Ray's logs"


def left_to_run(work: Sequence[Work], story: Story | None) -> list[Work]:
    """Drop what is over: trials with a summary, and trials the journal says were stopped or finished."""
    over = {key for key, outcome in story.outcomes.items() if outcome != "failed"} if story else set()
    return [w for w in work if w.trial.key not in over and read_summary(Path(w.job.run_dir)) is None]


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a sweep's directory for one driver; the system frees it when the driver dies.

    Raises:
        CheckpointError: another driver works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError("another driver runs it", folder, "wait for it, or stop that job first") from None
        yield

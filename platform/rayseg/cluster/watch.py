"""What a driver knows of its trials: what each takes, what happened to it, which are left to run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rayseg.cluster.launch import FAILED, Job, fault_of
from rayseg.cluster.runtime import PauseFile
from rayseg.config import RunConfig
from rayseg.durable import LOCK, try_lock
from rayseg.errors import CheckpointError, ClusterError
from rayseg.sweep.lines import Event
from rayseg.sweep.recorded import Recorded
from rayseg.sweep.search import Suggestion
from rayseg.sweep.trial import Trial
from rayseg.train import commit
from rayseg.train.review import EVALUATION, GIVEN_UP, give_up, read_summary

WRITTEN_S = 30.0
"""So long a commit may take from its report to the disk."""


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


class Watch:
    """Stands between the search and Tune: makes each suggestion a job, hears of every report and end, tells the user.

    `job_of` gives a suggestion's job and may refuse it; `say` hears what the journal has already.
    """

    def __init__(
        self, search: Recorded, job_of: Callable[[Trial], Job], say: Callable[[Event], None], *, pause: Path
    ) -> None:
        self.search, self.say = search, say
        self.pause = PauseFile(pause)
        self._job_of = job_of
        self._jobs: dict[str, Job] = {}
        self.fault: BaseException | None = None

    def suggest(self) -> Job | Literal["wait", "done"]:
        """Give the next job; `done` too while the sweep is to pause.

        Raises:
            CheckpointError: the commit that a trial should begin with is gone, with all others of its donor.
        """
        if self.pause.wanted:
            return "done"
        answer = self.search.suggest()
        if not isinstance(answer, Suggestion):
            if answer == "wait" and not self.search.open():
                raise RuntimeError("the search waits, and nothing runs that it could wait for")
            return answer
        job = self._job(answer)
        for name in (FAILED, GIVEN_UP):
            (Path(job.run_dir) / name).unlink(missing_ok=True)
        return job

    def _job(self, suggestion: Suggestion) -> Job:
        trial, donor = suggestion.trial, suggestion.donor
        job = self._jobs.get(trial.key) or self._job_of(trial)
        self._jobs[trial.key] = job
        if donor is not None and trial.key not in self.search.adopted:
            step = begin_from(self._run_dir(donor.key), donor.step, Path(job.run_dir), job.config)
            self.search.adopt(trial.key, donor.key, step)
        return job

    def _run_dir(self, key: str) -> Path:
        return Path((self._jobs.get(key) or self._job_of(self._trial(key))).run_dir)

    def _trial(self, key: str) -> Trial:
        return self.search.suggestions[key].trial

    def start(self, key: str) -> None:
        """Tell that a trial starts."""
        suggestion = self.search.suggestions[key]
        begun = suggestion.donor.step if suggestion.donor else 0
        self.say(Event("start", suggestion.trial, {"note": suggestion.note, "step": begun}))

    def result(self, key: str, figures: Mapping[str, Any]) -> str | None:
        """Take in a report, after those that a dead worker committed and never told; say why the trial should stop."""
        run_dir = Path(self._jobs[key].run_dir)
        for each in [*missed(run_dir, self.search.heard.get(key, 0), figures["step"]), figures]:
            self._report(key, each)
        if (reason := self.search.stops.get(key)) is not None:
            give_up(run_dir, reason)
        return reason

    def _report(self, key: str, figures: Mapping[str, Any]) -> None:
        if figures["step"] > self.search.heard.get(key, 0):
            # No search looks at one class, and the journal would be mostly that.
            self.search.report(key, {k: v for k, v in figures.items() if not k.startswith("iou/")})
            ends = key in self.search.stops
            self.say(Event("result", self._trial(key), {"loss": math.nan, **figures, "ends": ends}))

    def end(self, key: str, *, failed: bool, note: str = "") -> None:
        """Take in how a trial ended."""
        run_dir = Path(self._jobs[key].run_dir)
        failed = failed or fault_of(run_dir) is not None
        reason = "; ".join(filter(None, [_fault(run_dir), note])) if failed else ""
        if failed:
            fault = fault_of(run_dir)
            give_up(run_dir, f"failed: {fault.what if fault else reason}")
        outcome = self.search.end(key, failed=failed, reason=reason)
        self.say(Event(outcome, self._trial(key), {"reason": reason or self.search.stops.get(key, "")}))

    def catch_up(self) -> None:
        """Take in what the trials of an earlier attempt did after its last word of them, before anything starts."""
        for suggestion in self.search.open():
            key = suggestion.trial.key
            job = self._jobs[key] = self._job_of(suggestion.trial)
            for figures in missed(Path(job.run_dir), self.search.heard.get(key, 0)):
                if key not in self.search.stops:
                    self._report(key, figures)
            if key in self.search.stops:
                give_up(Path(job.run_dir), self.search.stops[key])
            if key in self.search.stops or read_summary(Path(job.run_dir)) is not None:
                self.search.end(key, failed=False)


def begin_from(donor_dir: Path, step: int, run_dir: Path, config: Mapping[str, Any]) -> int:
    """Begin a run with a donor's commit, and say of which step it was; waits for one that is being written.

    Raises:
        CheckpointError: the donor has no commit.
    """
    until = time.monotonic() + WRITTEN_S
    while not any(step <= step_of(path) for path in commit.commits(donor_dir)) and time.monotonic() < until:
        time.sleep(0.05)
    return step_of(commit.adopt(donor_dir, step, run_dir, {"config": dict(config)}))


def step_of(path: Path) -> int:
    """Read the step of a commit from its name."""
    return int(path.name.removeprefix("step-"))


def missed(run_dir: Path, after: int, before: float = math.inf) -> list[dict[str, Any]]:
    """List the figures of evaluations between two steps that were committed; a kill may have cut their report off."""
    found = []
    for path in commit.commits(run_dir):
        if after < step_of(path) < before and (path / EVALUATION).exists():
            try:
                state = commit.read(path).state
            except CheckpointError:
                continue
            of_progress = {name: state["progress"][name] for name in ("step", "miou", "pixel_accuracy", "best_miou")}
            found.append(state.get("report", of_progress))
    return found


def _fault(run_dir: Path) -> str:
    """Say in one line why a trial failed: its own fault, or the last line of its log."""
    if (fault := fault_of(run_dir)) is not None:
        return str(fault)
    log = run_dir / "log.txt"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "its process ended; see Ray's logs"


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a sweep's directory for one driver; the system frees it when the driver dies.

    Raises:
        CheckpointError: another driver works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        if not try_lock(file):
            raise CheckpointError("another driver runs it", folder, "wait for it, or stop that job first")
        yield

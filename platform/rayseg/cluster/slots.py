"""Slots: where trials run, one after the other, without starting anything anew for the next one.

A slot takes a job, tells what happens in it, and takes the next. A slot of one worker is a thread of the process that
has it. A slot of several is one long-lived run of Ray Train, whose workers (and their process group) take job after
job from a desk: Ray Train under Tune costs a further trial 13 s and more where it is started for each.
"""

from __future__ import annotations

import queue
import threading
import uuid
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayseg.cluster import launch
from rayseg.cluster.desk import Desk, Event
from rayseg.cluster.launch import Job
from rayseg.cluster.runtime import Alone, TrainWorker, TrialRuntime
from rayseg.cluster.watch import Resources
from rayseg.errors import TrainingError
from rayseg.schema import parse, to_dict
from rayseg.train.runtime import from_chief

PATIENCE_S = 120.0
"""So long a run that was given up may take to its end: a step, a commit, its pictures."""
RESTARTS = 10
"""So often Ray Train starts a slot's workers again before the whole slot is given up; each job has its own limit."""


class Slot(Protocol):
    """Runs one job at a time."""

    def begin(self, job: Job) -> None:
        """Start a job; the one before is over."""

    def next(self) -> Event:
        """Let the job go on, and wait for what happens next in it."""

    def leave(self) -> bool:
        """Have the job end, if it goes on: it closes itself as a run that was given up. False where it does not end."""

    def close(self) -> None:
        """Give everything back."""


def open_slot(resources: Resources, storage: Path) -> Slot:
    """Make a slot; `storage` is a folder that all workers see. Ray must be connected where there are several."""
    return Here() if resources.workers == 1 else There(resources, storage)


class Here:
    """A slot of one worker: a thread of this process."""

    def begin(self, job: Job) -> None:
        """Start the thread."""
        self._events: queue.Queue[Event | BaseException] = queue.Queue()
        self._verdicts: queue.Queue[bool] = queue.Queue()
        self._asked = False
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Job) -> None:
        pause = Path(job.pause) if job.pause else None
        try:
            over = launch.run(job, TrialRuntime(Path(job.run_dir), Alone(), self._tell, pause=pause))
            self._events.put(Event(over=over))
        except BaseException as error:
            self._events.put(error)

    def _tell(self, figures: dict[str, Any]) -> bool:
        self._events.put(Event(figures=figures))
        return self._verdicts.get()

    def next(self) -> Event:
        """Wait for the thread; what it raised is raised here."""
        self._answer(True)
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        self._asked = event.figures is not None
        return event

    def _answer(self, going: bool) -> None:
        if self._asked:
            self._asked = False
            self._verdicts.put(going)

    def leave(self) -> bool:
        """Let the thread end."""
        self._answer(False)
        self._thread.join(PATIENCE_S)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Nothing is kept."""


class There:
    """A slot of several workers: a run of Ray Train that lasts, and the desk its workers ask for jobs.

    A worker that dies takes the others with it: Ray Train starts them again, and they go on with the same job.
    """

    def __init__(self, resources: Resources, storage: Path) -> None:
        self._desk: Any = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=_here()).remote(resources.workers)
        self._over = True
        self._report: int | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(resources, storage), daemon=True)
        self._thread.start()

    def _train(self, resources: Resources, storage: Path) -> None:
        try:
            _trainer(self._desk, resources, storage).fit()
        except BaseException as error:
            self._fault = error

    def begin(self, job: Job) -> None:
        """Put the job on the desk."""
        self._run_dir, self._over = Path(job.run_dir), False
        ray.get(self._desk.put.remote(to_dict(job)))

    def next(self) -> Event:
        """Wait at the desk.

        Raises:
            TrainingError: Ray Train gave the workers up.
        """
        self._answer(True)
        waiting = self._desk.next.remote()
        while not ray.wait([waiting], timeout=1)[0]:
            if not self._thread.is_alive():
                said = last_line(self._fault) if self._fault else "they ended"
                raise TrainingError(f"the workers cannot be kept up: {said}", self._run_dir, "read log.txt there")
        event: Event = ray.get(waiting)
        self._report, self._over = event.report, event.over is not None
        if event.note:
            with (self._run_dir / "log.txt").open("a") as log:
                print(event.note, file=log)
        return event

    def _answer(self, going: bool) -> None:
        if self._report is not None:
            ray.get(self._desk.answer.remote(self._report, going))
            self._report = None

    def leave(self) -> bool:
        """Answer every report with the end, until the job is over."""
        self._answer(False)
        while not self._over:
            waiting = self._desk.next.remote()
            if not ray.wait([waiting], timeout=PATIENCE_S)[0]:
                return False
            event: Event = ray.get(waiting)
            self._report, self._over = event.report, event.over is not None
            self._answer(False)
        return True

    def close(self) -> None:
        """Send the workers home, and wait a moment for them."""
        ray.get(self._desk.close.remote())
        self._thread.join(20)


def _trainer(desk: Any, resources: Resources, storage: Path) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return TorchTrainer(
        _serve,
        train_loop_config={"desk": desk},
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": resources.cpus_per_worker, **gpus},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=300),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg] # Train V2's, of which the checker sees the old one
            name=f"slot-{uuid.uuid4().hex[:8]}",  # never twice: Ray would resume its own snapshot, not our commit
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _serve(params: dict[str, Any]) -> None:
    """Be a worker: take a job, run it, take the next, until the desk closes.

    Nobody waits for another rank between jobs, so that a slot may stand idle for longer than a collective's time limit.
    """
    desk, at, done = params["desk"], TrainWorker(), 0
    while (taken := ray.get(desk.take.remote(at.rank, done))) is not None:
        done = taken.number
        job = parse(Job, taken.job, "job")
        if from_chief(int(taken.hopeless), at.device):
            over: launch.Over = "failed"
        else:
            over = launch.run(job, _runtime(desk, taken.number, job, at))
        if not ray.get(desk.leave.remote(taken.number, at.rank, over)):
            raise RuntimeError("the other workers are stuck in a job that failed: Ray Train starts all of them again")


def _runtime(desk: Any, number: int, job: Job, at: TrainWorker) -> TrialRuntime:
    def tell(figures: dict[str, Any]) -> bool:
        return bool(ray.get(desk.report.remote(number, figures)))

    return TrialRuntime(Path(job.run_dir), at, tell, pause=Path(job.pause) if job.pause else None)


def _here() -> NodeAffinitySchedulingStrategy:
    """Say where a desk is: on the slot's own node, the head, which no spot price takes away."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def last_line(error: BaseException) -> str:
    """Give the last line of what an error says: Ray's tell a whole traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def train_on_workers(job: Job, resources: Resources) -> None:
    """Run one job on several workers and wait for its end. Ray must be connected.

    Raises:
        RaysegError: the run's own fault; or TrainingError, the workers died more often than a run is started again.
    """
    slot = There(resources, Path(job.run_dir) / "ray")
    slot.begin(job)
    try:
        while (event := slot.next()).over is None:
            pass
    finally:
        slot.close()
    if event.over == "failed":
        fault = launch.fault_of(Path(job.run_dir))
        raise fault or TrainingError(event.note or "its workers failed", job.run_dir, "read log.txt there")

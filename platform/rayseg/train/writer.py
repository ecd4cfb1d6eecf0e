"""Commits beside training: the loop copies its tensors and goes on, a thread writes, hashes, syncs and renames.

At most one commit is in the making; the next one, a pause and the end wait for it. An evaluation is reported once its
commit is whole, and not before: whoever hears of a step finds the commit that belongs to it, and a run that is killed
meanwhile has not reported what it will do again. A fault of the writer is raised in the loop, after the next update.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch

from rayseg.errors import CheckpointError, TrainingError
from rayseg.train import commit, evaluate
from rayseg.train.commit import Commit, Tensors
from rayseg.train.evaluate import Evaluation
from rayseg.train.faults import RollBack, first_not_finite
from rayseg.train.goodput import Goodput
from rayseg.train.review import State
from rayseg.train.runtime import Runtime, from_chief, raise_alike
from rayseg.train.watchdog import Watchdog

REPORTED = "reported"
"""A file that says of which step the last report was."""
KEPT = 3
"""Commits on disk at rest: the newest two and the best."""


class Commits:
    """A run's commits. Every rank has one and calls it alike; rank 0's writes."""

    def __init__(self, runtime: Runtime, spent: Goodput, watch: Watchdog) -> None:
        self._runtime, self._spent, self._watch = runtime, spent, watch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rayseg-commit")
        self._job: Future[None] | None = None
        self._step: int | None = None
        self._report: Mapping[str, float] | None = None
        self._buffers: dict[str, Tensors] = {}

    def begin(
        self,
        state: State,
        tensors: Mapping[str, Tensors],
        of_run: Mapping[str, Any],
        *,
        result: Evaluation | None = None,
        report: Mapping[str, float] | None = None,
    ) -> None:
        """Copy what the run is after `state.step` updates, and let it be written; give `report` once it is whole.

        Raises:
            CheckpointError, TrainingError: as the commit before could not be written; see `poll`.
        """
        self.finish()
        with self._spent.during("commits"):
            if self._runtime.rank == 0:
                self._buffers = _copied(tensors, self._buffers)
                whole = {**of_run, "progress": state.model_dump()} | ({"report": dict(report)} if report else {})
                self._spent.mark(state.step)
                self._job = self._pool.submit(_write, self._runtime.run_dir, state, self._buffers, whole, result)
            self._step, self._report = state.step, report

    def poll(self) -> None:
        """Give the report whose commit became whole. Called after every update.

        Raises:
            CheckpointError: the disk is full or read-only; the commits before are untouched.
            TrainingError: something in the commit is not finite.
        """
        if self._step is not None:
            with self._spent.during("commits"):
                whole = from_chief(self._job is not None and self._job.done(), self._runtime.device)
            if whole:
                self.finish()

    def finish(self) -> None:
        """Wait for the commit in the making, and give its report; raises as `poll` does."""
        if self._step is None:
            return
        self._watch.beat(f"the commit of step {self._step}")
        with self._spent.during("commits"):
            error = self._job.exception() if self._job is not None else None
            raise_alike(error, self._runtime.device)
        report, self._step, self._report, self._job = self._report, None, None, None
        if report is not None:
            self._tell(report)

    def tell_again(self, found: Commit | None) -> None:
        """Give the report of the commit that the run goes on from, where a kill may have cut it off.

        Every report is given at least once. Hardly ever twice: a kill must fall between the report and its note.
        """
        report = found.state.get("report") if found is not None else None
        if report is not None:
            note = self._runtime.run_dir / REPORTED
            told = int(note.read_text() or 0) if self._runtime.rank == 0 and note.exists() else 0
            if from_chief(told, self._runtime.device) < report["step"]:
                self._tell(report)

    def _tell(self, report: Mapping[str, float]) -> None:
        self._watch.rest()
        with self._spent.during("reports"):
            self._runtime.report(report)
        self._watch.beat(f"what follows the report of step {report['step']}")
        if self._runtime.rank == 0:
            (self._runtime.run_dir / REPORTED).write_text(str(report["step"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, RollBack):
            self.finish()
        self._pool.shutdown(wait=True)  # a fault elsewhere does not cost the commit in the making


def check_room(run_dir: Path, tensors: Mapping[str, Tensors], show: Callable[[str], None]) -> None:
    """Refuse to begin a run whose first commit finds no room, and warn of one whose commits may not.

    The weights and as much again for the momentum that is to come, as often as commits are kept, one is being built
    beside them, and twice that for what else grows on the disk.

    Raises:
        CheckpointError: not even one commit fits.
    """
    sizes = {name: sum(t.nbytes for t in group.values()) for name, group in tensors.items()}
    one = sum(sizes.values()) + max(0, sizes["model"] - sizes.get("optimizer", 0))
    free = shutil.disk_usage(run_dir).free
    if free < one:
        what = f"no room for a commit: it takes {_mib(one)}, and {_mib(free)} are free"
        raise CheckpointError(what, run_dir, "make room, then run the same command again")
    kept = len(commit.commits(run_dir)) * one
    if free + kept < (wanted := 2 * one * (KEPT + 1)):
        show(f"warning: {_mib(free)} are free on the disk of {run_dir}, the run's commits may want {_mib(wanted)}")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _copied(tensors: Mapping[str, Tensors], buffers: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Copy to the CPU, into the last commit's buffers where they fit: new memory costs more than the copy."""
    copies = {name: _group_copied(group, buffers.get(name, {})) for name, group in tensors.items()}
    if any(value.is_cuda for group in tensors.values() for value in group.values()):
        torch.cuda.synchronize()
    return copies


def _group_copied(group: Tensors, buffers: Tensors) -> Tensors:
    copies = {}
    for name, value in group.items():
        buffer = buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        copies[name] = buffer.copy_(value.detach(), non_blocking=value.is_cuda)
    return copies


def _write(
    run_dir: Path, state: State, tensors: Mapping[str, Tensors], whole: Mapping[str, Any], result: Evaluation | None
) -> None:
    if (wrong := first_not_finite(tensors)) is not None:
        what = f"not committed, for {wrong} is not finite"
        raise TrainingError(what, f"step {state.step}", "lower optim.lr, or set train.precision=fp32")
    files = {} if result is None else {commit.EVALUATION: evaluate.to_bytes(result)}
    commit.write(run_dir, state.step, tensors, whole, files)
    commit.prune(run_dir, best=state.best_step)

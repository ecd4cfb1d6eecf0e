"""A probe of some trials of a sweep, half a minute or so, in processes that run as many at once as the sweep will."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from rayseg import segmenter
from rayseg.cluster.watch import Resources
from rayseg.config import RunConfig
from rayseg.data.reader import ShardSet
from rayseg.errors import RaysegError, TrainingError, from_fields
from rayseg.schema import to_dict
from rayseg.sweep.costs import Load, Measured, spread
from rayseg.sweep.trial import Trial, describe
from rayseg.train.pace import Pace, Request

Show = Callable[[str], None]
LIMIT_S, LEAST_S = 50.0, 20.0
"""So long a probe takes, the start of its processes included; on a very slow start, so long after it."""
MODULE = "rayseg.train.pace"
EACH = 3
"""So many trials are measured in each process, where there is time."""


class Probe(NamedTuple):
    """What was measured: `boot_s` until a process is ready for its first trial, and the trials' paces."""

    boot_s: float
    measured: list[Measured]
    at_once: int
    took_s: float


def load_of(val_set: ShardSet) -> Callable[[RunConfig], Load]:
    """Give what counts a config's multiply-adds; a model is counted once."""
    height, width = val_set.read(0).image.shape[:2]

    @cache
    def counted(model: str, size: tuple[int, int], training: bool) -> int:
        skeleton = segmenter.skeleton(segmenter.Config.model_validate_json(model))
        return segmenter.describe(skeleton, (3, *size), training=training).macs

    def load(config: RunConfig) -> Load:
        model = config.model(val_set.num_classes).model_dump_json()
        step = config.train.batch * counted(model, tuple(config.augment.crop_px), True)
        return Load(float(step), float(counted(model, (height, width), False)))

    return load


def probe(trials: Sequence[Trial], load: Callable[[RunConfig], Load], resources: Resources, show: Show) -> Probe:
    """Measure the first trial, the largest, and others far from them, as many at once as the sweep runs here.

    Raises:
        RaysegError: none of them could be measured; why the first could not.
    """
    began = time.monotonic()
    at_once = max(1, min(resources.concurrent, _room(resources)))
    chosen = spread(trials, lambda t: load(t.config).step, EACH * at_once)
    groups = [(chosen[i::at_once] or chosen[:1]) for i in range(at_once)]
    show(f"measuring {len(chosen)} of {len(trials)} trials, {at_once} at a time, for at most {LIMIT_S:.0f} s")
    with tempfile.TemporaryDirectory(prefix="rayseg-plan-") as folder, ExitStack() as stack:
        children = [
            stack.enter_context(_Child(Path(folder), group, slot, rank, resources))
            for slot, group in enumerate(groups)
            for rank in range(resources.workers)
        ]
        for child in children:
            child.wait()
        boot_s = time.monotonic() - began
        for child in children:
            child.ask(max(LIMIT_S - boot_s, LEAST_S))
        for child in children:
            child.go()
        chiefs = children[:: resources.workers]
        answers = [pair for group, chief in zip(groups, chiefs, strict=True) for pair in chief.answers(group)]
    measured = [Measured(trial, answer) for trial, answer in answers if isinstance(answer, Pace)]
    for trial, answer in answers:
        if isinstance(answer, RaysegError):
            if not measured:
                raise answer
            show(f"warning: {trial.key} ({describe(trial.point)}) was not measured: {answer}")
    return Probe(boot_s, measured, at_once, time.monotonic() - began)


def _room(resources: Resources) -> int:
    """Count the trials that fit on this machine."""
    if not resources.gpus_per_worker:
        return (os.cpu_count() or 1) // (resources.cpus_per_worker * resources.workers)
    import torch

    return int(torch.cuda.device_count() // (resources.gpus_per_worker * resources.workers))


class _Child:
    """A process that measures, `rank` of the trial in its slot. It ends with the block."""

    def __init__(self, folder: Path, trials: Sequence[Trial], slot: int, rank: int, resources: Resources) -> None:
        threads, world = resources.cpus_per_worker, resources.workers
        self.request = Request(
            configs=[to_dict(t.config) for t in trials],
            folder=str(folder / f"slot-{slot}"),
            threads=threads,
            limit_s=LIMIT_S,
            rank=rank,
            world=world,
            gpu=int((slot * world + rank) * resources.gpus_per_worker),
            meeting=str(folder / f"meeting-{slot}"),
        )
        self.log = folder / f"log-{slot}-{rank}"
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}

    def __enter__(self) -> _Child:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,  # a Ctrl-C is for the parent, which ends it
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _piped(pipe).close()

    def wait(self) -> None:
        """Wait until it is ready."""
        if _piped(self.process.stdout).readline().strip() != "ready":
            raise self._lost()

    def ask(self, limit_s: float) -> None:
        """Send the request."""
        self._write(self.request.model_copy(update={"limit_s": limit_s}).model_dump_json())

    def go(self) -> None:
        """Let it begin."""
        self._write("go")

    def _write(self, line: str) -> None:
        try:
            _piped(self.process.stdin).write(f"{line}\n")
            _piped(self.process.stdin).flush()
        except OSError:
            raise self._lost() from None

    def answers(self, trials: Sequence[Trial]) -> list[tuple[Trial, Pace | RaysegError]]:
        """Read an answer a trial; a process that dies answers for the trial it was at."""
        found: list[tuple[Trial, Pace | RaysegError]] = []
        for trial in trials:
            if line := _piped(self.process.stdout).readline():
                found.append((trial, _answer(json.loads(line))))
            elif self.process.wait():
                return [*found, (trial, self._lost())]
        return found

    def _lost(self) -> TrainingError:
        lines = self.log.read_text(errors="replace").splitlines()
        killed = "it was killed: memory may be short" if self.process.wait() < 0 else "it ended early"
        return TrainingError(lines[-1] if lines else killed, "--plan", "lower train.batch or augment.crop_px")


def _answer(fields: dict[str, Any]) -> Pace | RaysegError:
    return Pace(**fields) if "step_s" in fields else from_fields(fields)


def _piped(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe

"""An attempt at a run as its tracker has it: when it begins, what the machine does meanwhile, where and why it ends.

What is told is what `goodput` keeps in the run's directory. So an attempt whose process was killed is told to its end
by whoever finds it.
"""

from __future__ import annotations

import os
import platform
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, final

import psutil
import torch

from rayseg.errors import RaysegError
from rayseg.tracking import Ending, Status, Tracker, code, nvml
from rayseg.tracking.machine import Monitor
from rayseg.tracking.nvml import Gpu
from rayseg.train import commit
from rayseg.train.faults import GIB, RollBack
from rayseg.train.goodput import ORDER, Goodput, Past, past
from rayseg.train.runtime import Runtime

KILLED = "the process was killed"
_STATUS: dict[str | None, Status] = {"over": "FINISHED", "paused": "KILLED", "failed": "FAILED", None: "KILLED"}


@final
class Told:
    """Tells of one attempt on rank 0, and gives its time to `spent`. Whatever leaves the block ends the attempt."""

    def __init__(self, tracker: Tracker, runtime: Runtime, spent: Goodput) -> None:
        self._tracker, self._runtime, self._spent = tracker, runtime, spent
        self._monitor: Monitor | None = None
        self._open = False

    def begin(self, step: int) -> None:
        """Begin at `step`; attempts before this one that were killed are told to their end."""
        self._spent.begin(step)
        if self._runtime.rank != 0:
            return
        self._open = True
        bury(self._runtime.run_dir, self._tracker)
        number = self._spent.number
        self._tracker.attempt(number, {"attempt": str(number), "start_step": str(step)} | facts(self._runtime))
        for name, value in code.tags().items():
            self._tracker.tag(name, value)
        if number > 1:
            self._tracker.tag("stopped", f"no: attempt {number} goes on from step {step}")
        write = partial(self._tracker.attempt_metrics, number)
        self._monitor = Monitor(write, self._runtime.run_dir, _gpu(self._runtime.device))
        self._monitor.start()

    def end(self, how: Literal["over", "paused", "failed"], why: str) -> None:
        """End it, once; `why` is a sentence for the run's reader too."""
        self._spent.end(how, why)
        if not self._open:
            return
        self._open = False
        if self._monitor is not None:
            self._monitor.end()
        self._tracker.tag("stopped", why)
        bury(self._runtime.run_dir, self._tracker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.end("failed", in_words(error))
        except RaysegError:  # the disk is full, which is not what ended it
            if error is None:
                raise


def in_words(error: BaseException | None) -> str:
    """Say why an attempt ended, from what was raised."""
    if isinstance(error, RollBack):
        return "rolled back to the newest commit: the loss or a gradient was not finite"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, RaysegError):
        return f"failed: {error.what}"
    first = next(iter(str(error).splitlines()), "")
    return f"failed: {type(error).__name__}{': ' if first else ''}{first[:200]}"


def bury(run_dir: Path, tracker: Tracker) -> None:
    """Tell the tracker how those attempts ended that it does not know of yet; the caller holds the run.

    One without an end was killed, but for the last one where the caller is in the middle of it.
    """
    newest = max((int(path.name.removeprefix("step-")) for path in commit.commits(run_dir)), default=0)
    for attempt in past(run_dir, newest):
        tracker.attempt_over(attempt.number, _ending(attempt))


def _ending(attempt: Past) -> Ending:
    account = attempt.account
    times = {f"time/{kind}_s": account.seconds.get(kind, 0.0) for kind in ORDER if kind != "down"}
    own = {"end_step": attempt.step, "lost_steps": account.lost_steps, "goodput": account.goodput}
    why = attempt.why or (KILLED if attempt.ended is None else attempt.ended)
    return Ending(_STATUS[attempt.ended], why, attempt.step, own | times, attempt.ended_s)


def facts(runtime: Runtime) -> dict[str, str]:
    """Say on what an attempt runs, without a name of the machine."""
    device = runtime.device
    name = f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {
        "workers": str(runtime.world),
        "device": name,
        "threads": str(torch.get_num_threads()),
        "hardware": hardware(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def hardware() -> str:
    """Describe the machine: its processor, cores, memory and GPUs."""
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total / GIB
    parts = [_processor(), f"{cores} core{'s' if cores > 1 else ''}", f"{memory:.0f} GiB"]
    if count := torch.cuda.device_count():
        parts.append(f"{count} x {torch.cuda.get_device_name(0)}")
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def _gpu(device: torch.device) -> Gpu | None:
    """Find the run's own GPU; None on a CPU, and where NVIDIA's library is not there."""
    if device.type != "cuda":
        return None
    number = device.index if device.index is not None else torch.cuda.current_device()
    return nvml.find(f"GPU-{getattr(torch.cuda.get_device_properties(number), 'uuid', '')}", number)

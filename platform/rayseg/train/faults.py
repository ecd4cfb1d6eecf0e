"""What goes wrong in training: numbers that are not finite, memory and disks that run out.

A loss or a gradient that is not finite is found in its step and by every rank, and its update was not done. What then
happens, `train.on_nan` says: `fail`, `skip:N` (go on, up to N times, then roll back) or `rollback` (go on from the
newest commit). The same step a second time is no accident: the run fails and says what it knows. A loss scaler's
overflow is no fault and not seen here.
"""

from __future__ import annotations

import errno
import math
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from rayseg.errors import CheckpointError, TrainingError
from rayseg.train.runtime import Runtime, sum_over_ranks
from rayseg.train.shortage import is_shortage
from rayseg.train.update import Updater

FULL = (errno.ENOSPC, errno.EDQUOT)
GIB = 2**30


class RollBack(Exception):  # noqa: N818 # it is an order, not an error
    """Go on from the newest commit."""


class Guard:
    """Judges every update of a run; it outlives the attempts within one process."""

    def __init__(self, on_nan: str, show: Callable[[str], None]) -> None:
        self._policy, _, count = on_nan.partition(":")
        self._left = int(count or 0)
        self._show, self._seen = show, set[int]()

    def judge(self, update: Updater, losses: Mapping[str, Tensor], step: int, rate: float) -> dict[str, float] | None:
        """Read an update's losses; None where it is left out. Every rank calls it after every update.

        Raises:
            RollBack: go on from the newest commit.
            TrainingError: the run fails; losses, rate and the first tensor that is not finite are said.
        """
        values = dict(zip(losses, torch.stack([loss.float() for loss in losses.values()]).tolist(), strict=True))
        wrong = not update.finite() or not all(map(math.isfinite, values.values()))
        if not sum_over_ranks(torch.tensor(float(wrong), device=update.runtime.device)):
            return values
        again, what = step in self._seen, _said(update, values, rate)
        self._seen.add(step)
        if again or self._policy == "fail":
            what = f"{what}; the second time at this step" if again else what
            raise TrainingError(what, f"step {step}", "lower optim.lr, set train.precision=fp32, or see train.on_nan")
        if not self._left:
            self._show(f"step {step}: {what}: rolling back to the newest commit")
            raise RollBack
        self._left -= 1
        self._show(f"step {step}: {what}: left out, and {self._left} more may be")
        return None


def _said(update: Updater, values: Mapping[str, float], rate: float) -> str:
    parts = [f"{name} is {value:.4g}" for name, value in values.items()]
    gradients = {name: p.grad for name, p in update.parts.model.named_parameters() if p.grad is not None}
    wrong = first_not_finite({"gradient": gradients}) or first_not_finite(update.tensors())
    return ", ".join([*parts, f"learning rate {rate:.4g}", *([f"{wrong} is not finite"] if wrong else [])])


def first_not_finite(tensors: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Name the first tensor that holds a NaN or an infinity, after its group."""

    def wrong(value: Tensor) -> bool:
        return value.is_floating_point() and not bool(value.isfinite().all())

    names = (f"{group}/{name}" for group, values in tensors.items() for name, value in values.items() if wrong(value))
    return next(names, None)


@contextmanager
def explained(runtime: Runtime) -> Iterator[None]:
    """Turn a lack of memory or of room on the disk into the error that says so, with what was taken at most.

    Raises:
        TrainingError: `oom_gpu` or `oom_host`.
        CheckpointError: the disk is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise _no_memory(error, runtime) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = error.filename or runtime.run_dir
        raise CheckpointError(f"{error.strerror}", where, "make room, then run the same command again") from None


def _no_memory(error: BaseException, runtime: Runtime) -> TrainingError:
    if runtime.device.type == "cuda" and not isinstance(error, MemoryError):
        kind, peak, total = "oom_gpu", torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
    else:
        kind, total = "oom_host", psutil.virtual_memory().total
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    first = (str(error).splitlines() or ["no memory left"])[0][:120]
    what = f"{kind}: {first}; rank {runtime.rank} had {peak / GIB:.1f} of {total / GIB:.1f} GiB at its peak"
    return TrainingError(what, runtime.run_dir, "lower train.batch or augment.crop_px, or use more workers")

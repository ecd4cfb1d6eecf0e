"""The runtime of a run that somebody else started: a trial of a sweep, or one rank of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from rayseg.train.runtime import Stop, from_chief

ASKED_EVERY_S = 1.0
"""About so often the ranks agree on whether to pause: at every step it would cost as much as the step of a tiny run."""

Tell = Callable[[dict[str, Any]], bool]
"""Hands figures to whoever started the run, and comes back with whether it goes on."""


class Rank(Protocol):
    """Which of how many workers this is, and on what it computes."""

    rank: int
    world: int
    device: torch.device


class Alone:
    """The one worker of a run."""

    rank, world = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TrainWorker:
    """A worker of Ray Train; torch's process group is there already."""

    def __init__(self) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()


class TrialRuntime:
    """Reports go to whoever started the run, and may come back with the run's end; a file asks it to pause.

    Rank 0 asks, and all ranks get its answer at the same step.
    """

    def __init__(self, run_dir: Path, at: Rank, tell: Tell, *, pause: Path | None) -> None:
        self.run_dir = run_dir
        self.rank, self.world, self.device = at.rank, at.world, at.device
        self._tell, self._pause = tell, pause
        self._wanted: Stop | None = None
        self._asked_at, self._calls, self._next = time.monotonic(), 0, 1

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand the figures over, and learn whether the run was given up."""
        going = self._tell(dict(metrics)) if self.rank == 0 else True
        if not from_chief(int(going), self.device):
            self._wanted = "end"

    def stop(self) -> Stop | None:
        """Answer what the last report came back with, or that the run is to pause."""
        self._calls += 1
        if self._wanted is None and self._calls >= self._next:
            steps = from_chief(self._ask() if self.rank == 0 else 0, self.device)
            self._calls, self._next = 0, steps
            self._wanted = None if steps else "pause"
        return self._wanted

    def _ask(self) -> int:
        """Say after how many calls to ask again, 0 to pause now."""
        if self._pause is not None and self._pause.exists():
            return 0
        took, self._asked_at = time.monotonic() - self._asked_at, time.monotonic()
        return max(1, int(self._calls * ASKED_EVERY_S / max(took, 1e-3)))


class PauseFile:
    """Asks a run elsewhere to pause, by a file that its rank 0 looks for; what a signal handler sets is `wanted`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)

    @property
    def wanted(self) -> Stop | None:
        """Say whether it was asked."""
        return "pause" if self.path.exists() else None

    @wanted.setter
    def wanted(self, stop: Stop) -> None:
        assert stop == "pause"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

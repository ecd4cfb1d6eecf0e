"""Where a run happens: rank, world, device, reporting, stopping. `fit` never knows which runtime it has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayseg.durable import LOCK, try_lock
from rayseg.errors import CheckpointError, RaysegError, TrainingError, from_fields

Stop = Literal["pause", "end"]
"""`pause`: commit, and go on another day (Ctrl-C). `end`: a scheduler gave the run up; draw it and close it."""

PATIENCE_S = 20.0
"""How long a restarted run waits for its predecessor, killed a moment ago, to be gone."""


class Runtime(Protocol):
    """The seam between the loop and the cluster.

    `rank`, `world` and `device` are fixed for the runtime's life; `run_dir` is absolute and the same on all ranks.
    """

    rank: int
    world: int
    device: torch.device
    run_dir: Path

    def report(self, metrics: Mapping[str, float]) -> None:
        """Tell whoever launched the run how it goes. Every rank calls it, after each evaluation."""

    def stop(self) -> Stop | None:
        """Say whether the run should go no further. Asked after every step; every rank gets the same answer."""


class LocalRuntime:
    """One process, no cluster: a laptop or a test."""

    rank, world = 0, 1

    def __init__(self, run_dir: Path, device: str | torch.device | None = None) -> None:
        self.run_dir = run_dir.absolute()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.wanted: Stop | None = None

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nobody is listening; the tracker has it."""

    def stop(self) -> Stop | None:
        """Answer what a signal handler or a test set."""
        return self.wanted


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add up the tensor over all ranks, in place; every rank calls it."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def share_buffers(model: nn.Module) -> None:
    """Give every rank rank 0's buffers, the running statistics of batch norm among them."""
    if dist.is_available() and dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def from_chief(number: int, device: torch.device) -> int:
    """Give every rank rank 0's whole number, so that all decide alike; every rank calls it."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    shared = torch.tensor(number, dtype=torch.int64, device=device)
    dist.broadcast(shared, 0)
    return int(shared)


def said_by_chief(text: str, device: torch.device) -> str:
    """Give every rank rank 0's text; every rank calls it."""
    if not (dist.is_available() and dist.is_initialized()):
        return text
    size = from_chief(len(data := text.encode()), device)
    shared = torch.zeros(size, dtype=torch.uint8, device=device)
    if size and dist.get_rank() == 0:
        shared.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    if size:
        dist.broadcast(shared, 0)
    return bytes(shared.tolist()).decode()


def raise_alike(error: BaseException | None, device: torch.device) -> None:
    """Raise rank 0's error on every rank; every rank calls it, and what others than rank 0 give counts for nothing."""
    chief = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    known = error if isinstance(error, RaysegError) else TrainingError(repr(error), "rank 0", "see its log")
    said = said_by_chief(json.dumps(known.fields()) if error is not None else "", device)
    if said and chief and error is not None:
        raise error
    if said:
        raise from_fields(json.loads(said))


@contextmanager
def alike(runtime: Runtime) -> Iterator[None]:
    """Raise on every rank what rank 0 raises within the block, so that none waits for it; every rank enters it."""
    error = None
    try:
        yield
    except RaysegError as raised:
        error = raised
    raise_alike(error, runtime.device)


def gathered(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """Give every rank the whole numbers of all ranks, in their order; every rank calls it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [list(numbers)]
    mine = torch.tensor(list(numbers), dtype=torch.int64, device=device)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    return [part.tolist() for part in every]


@contextmanager
def holding(runtime: Runtime) -> Iterator[None]:
    """Hold the run directory on rank 0 for as long as the run works in it; the system frees it when the process dies.

    Raises:
        CheckpointError: another process works in it.
    """
    with ExitStack() as held:
        with alike(runtime):
            if runtime.rank == 0:
                held.enter_context(_lock(runtime.run_dir))
        yield


def _lock(run_dir: Path) -> IO[str]:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("w")
    except OSError as error:
        fix = "choose a directory that you may write to"
        raise CheckpointError(f"cannot work in it: {error.strerror}", run_dir, fix) from None
    until = time.monotonic() + PATIENCE_S
    while not try_lock(file):
        if time.monotonic() > until:
            file.close()
            fix = "wait for it, or choose another run directory"
            raise CheckpointError("another process works in it", run_dir, fix)
        time.sleep(0.1)
    return file

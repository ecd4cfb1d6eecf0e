"""Eight faults, each done from outside: signals, a flipped bit, a disk without room, a server that is away."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

import psutil

from rayseg.drill.victim import Victim

MIB = 2**20
SETTLED_S = 2.0
"""By then a commit that was being written is there."""


class Server(Protocol):
    """The tracking server of the drill."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


Strike = Callable[[Victim, Server], None]


class Fault(NamedTuple):
    """A fault: done once the run has taken `step` updates, `mend` by `mended` ones where it does not end the attempt.

    `answer` is what should follow: the run restarts itself, the command has to be typed again, or nothing happens.
    `says` is in what the run printed or kept.
    """

    name: str
    step: int
    strike: Strike
    answer: Literal["restart", "again", "nothing"]
    says: str = ""
    mend: Strike | None = None
    mended: int = 0


def kill_worker(victim: Victim, server: Server) -> None:
    """End a worker as the kernel does when memory is short."""
    victim.rank(1).kill()


def stop_worker(victim: Victim, server: Server) -> None:
    """Stop a worker, so that its peer waits for it in the next collective."""
    victim.rank(1).suspend()


def kill_driver(victim: Victim, server: Server) -> None:
    """End the command without a word."""
    assert victim.process is not None
    victim.process.kill()


def end_driver(victim: Victim, server: Server) -> None:
    """End the command as a shutdown does."""
    assert victim.process is not None
    victim.process.send_signal(signal.SIGTERM)


def kill_node(victim: Victim, server: Server) -> None:
    """End Ray's node with everything that runs on it, at once: a worker left alive may come to the end by itself."""
    node = victim.named("raylet")
    for process in [*node.children(recursive=True), node]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def flip_bit(victim: Victim, server: Server) -> None:
    """Flip one bit in the newest commit, and end a worker, so that the commit is needed.

    The worker is stopped first: its peer then waits for it, and no newer commit comes between.
    """
    stop_worker(victim, server)
    time.sleep(SETTLED_S)
    newest = victim.newest_commit()
    assert newest is not None
    path = newest / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    kill_worker(victim, server)


def fill_disk(victim: Victim, server: Server) -> None:
    """Let rank 0 write no file above a mebibyte: what a full disk does to a commit, without filling one."""
    psutil.Process(victim.rank(0).pid).rlimit(resource.RLIMIT_FSIZE, (MIB, MIB))


def lose_server(victim: Victim, server: Server) -> None:
    """Take the tracking server away."""
    server.kill()


def return_server(victim: Victim, server: Server) -> None:
    """Start the tracking server again."""
    server.start()


FAULTS = (
    Fault("worker killed", 14, kill_worker, "restart"),
    Fault("tracking server away", 26, lose_server, "nothing", mend=return_server, mended=40),
    Fault("newest commit flipped, worker killed", 48, flip_bit, "restart", says="skipping a damaged commit"),
    Fault("driver killed", 64, kill_driver, "again"),
    Fault("disk full", 80, fill_disk, "again", says="make room"),
    Fault("worker hangs", 98, stop_worker, "restart", says="did nothing for"),
    Fault("driver ended by SIGTERM", 114, end_driver, "again"),
    Fault("node killed", 130, kill_node, "again"),
)
STEPS = 150

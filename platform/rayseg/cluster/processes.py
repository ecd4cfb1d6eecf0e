"""Which processes are the stack's, and how they end. Never by name, never machine-wide as `ray stop` does it.

A process is the stack's when its environment carries the stack's id, or when it shares a session with such a process,
or when it descends from one. The environment alone is not enough: Ray's agents and dashboard modules write their title
over theirs. A session with a process of ours is ours alone: `rayseg up` opens one for each part, Ray one for each job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping

import psutil

from rayseg.schema import Value

ID, PART = "RAYSEG_STACK", "RAYSEG_PART"
SAME_S = 2.0


class Recorded(Value):
    """A process as stack.json remembers it. The start time (unix, s) tells it from a later process with its pid."""

    part: str
    name: str
    pid: int
    created: float


def record(part: str, name: str, process: psutil.Process) -> Recorded:
    """Write down who a process is."""
    return Recorded(part=part, name=name, pid=process.pid, created=process.create_time())


def alive(recorded: Recorded, number: str) -> bool:
    """Whether that very process of stack `number` still runs.

    Its environment says so; where that cannot be read, its start time does, which moves when the clock is set.
    """
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(recorded.pid)
        told = tag(process)
        same = told == number if told else abs(process.create_time() - recorded.created) < SAME_S
        return same and _running(process)
    return False


def members(mine: Callable[[Mapping[str, str]], bool]) -> list[psutil.Process]:
    """Find all running processes of the stack but this one; `mine` tells the environments that the stack gave."""
    running = {process.pid: process for process in psutil.process_iter() if _running(process)}
    found = {pid for pid, process in running.items() if mine(_environment(process))}
    sessions = {session(pid) for pid in found} - {None}
    found |= {pid for pid in running if session(pid) in sessions}
    parents = {pid: _parent(process) for pid, process in running.items()}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return [running[pid] for pid in sorted(found - {os.getpid()})]


def end(processes: list[psutil.Process], grace_s: float) -> None:
    """Send SIGTERM, wait, and send SIGKILL to those that still run."""
    for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        processes = _wait(processes, limit_s)


def tag(process: psutil.Process) -> str:
    """Give the id of the stack that started a process; empty where its environment does not say."""
    return _environment(process).get(ID, "")


def session(pid: int) -> int | None:
    """Give the id of a process's session."""
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def _wait(processes: list[psutil.Process], limit_s: float) -> list[psutil.Process]:
    # psutil.wait_procs would wait for zombies too, for ever where pid 1 does not collect them (many containers).
    deadline = time.monotonic() + limit_s
    while processes and time.monotonic() < deadline:
        for process in processes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)  # collect it where it is a child of this process
        processes = [process for process in processes if _running(process)]
        time.sleep(0.05)
    return processes


def _running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _environment(process: psutil.Process) -> Mapping[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None

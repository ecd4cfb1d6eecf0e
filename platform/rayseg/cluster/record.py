"""A stack as stack.json remembers it, and its processes: found by that record, ended in an order that loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

from rayseg.cluster import home, processes
from rayseg.cluster.processes import Recorded
from rayseg.errors import RaysegError
from rayseg.schema import Value, parse

PARTS = ("ray", "mlflow")
NUMBER = re.compile(r"[0-9a-f]{8}")  # an id, as `rayseg up` draws it
HEAD = ("gcs_server", "raylet")  # the processes without which there is no Ray
GRACE_S = 10.0  # for a job to close its run, for Ray to end its workers, for MLflow to end its requests


class Stack(Value):
    """A stack. `started` is in unix seconds; `sessions` are the process sessions that its parts were started in.

    The record is written before anything starts and again with each thing learned, so what a killed `rayseg up` left
    behind is found by its id.
    """

    id: str
    started: float
    home: Path
    root: Path
    python: str
    session_dir: Path
    token_path: Path
    ray_address: str
    dashboard_uri: str
    tracking_uri: str
    sessions: dict[str, int] = {}
    processes: tuple[Recorded, ...] = ()

    @property
    def ports(self) -> dict[str, int]:
        """The ports that clients use, by name."""
        uris = {"ray": self.ray_address, "dashboard": self.dashboard_uri, "mlflow": self.tracking_uri}
        return {name: int(uri.rpartition(":")[2]) for name, uri in uris.items()}

    def uri(self, part: str) -> str:
        """Say where a part answers HTTP."""
        return self.dashboard_uri if part == "ray" else self.tracking_uri

    def log(self, part: str) -> Path:
        """Say where a part's own words go."""
        return self.home / "logs" / f"{part}.log"

    def lives(self, part: str) -> bool:
        """Whether all recorded processes of a part still run."""
        recorded = [process for process in self.processes if process.part == part]
        return bool(recorded) and all(processes.alive(process, self.id) for process in recorded)


def load() -> Stack | None:
    """Read the record; None where there is none or nobody can read it (then `members` goes by the home alone)."""
    found = home.stack_record()
    try:
        return parse(Stack, found, home.location() / "stack.json") if found else None
    except RaysegError:
        return None


def save(stack: Stack) -> Stack:
    """Write the record at once and give it back."""
    home.write_private(stack.home / "stack.json", stack.model_dump_json(indent=1) + "\n")
    return stack


def session_dir(number: str) -> Path:
    """Name the folder that Ray's own is made in.

    Under /tmp whatever TMPDIR says: a Unix socket's path ends at 107 bytes, of which Ray takes 66 for itself.
    """
    return Path("/tmp") / f"rayseg-{os.getuid()}-{number}"


def members(stack: Stack | None, parts: Collection[str] = PARTS) -> list[psutil.Process]:
    """Find all processes of these parts; without a record, those that were given this home."""
    name, value = (processes.ID, stack.id) if stack else ("RAYSEG_HOME", str(home.location()))

    def mine(environ: Mapping[str, str]) -> bool:
        return environ.get(name) == value and environ.get(processes.PART) in parts

    return processes.members(mine)


def clear(stack: Stack | None, parts: Collection[str] = PARTS) -> dict[str, int]:
    """End all processes of these parts and remove Ray's folder; give how many there were, by part."""
    numbers = {stack.id} if stack else {processes.tag(process) for process in members(None, parts)}
    ended = {part: len(members(stack, [part])) for part in parts}
    processes.end(_jobs(stack, parts), GRACE_S)
    # The raylet and the monitor ask the GCS when they end, and hang without it.
    left = members(stack, parts)
    grace_s = GRACE_S if sum(_name(process) in HEAD for process in left) >= len(HEAD) else 0.0
    processes.end([process for process in left if _name(process) != "gcs_server"], grace_s)
    processes.end(members(stack, parts), GRACE_S)
    if "ray" in parts:
        for number in filter(NUMBER.fullmatch, numbers):  # no other folder, whatever the record says
            shutil.rmtree(session_dir(number), ignore_errors=True)
    return ended


def _jobs(stack: Stack | None, parts: Collection[str]) -> list[psutil.Process]:
    """Find the job drivers and what they started: Ray gives each job a session of its own."""
    found = members(stack, parts)
    known = set(stack.sessions.values()) if stack else {processes.session(p.pid) for p in found if _name(p) in HEAD}
    return [process for process in found if processes.session(process.pid) not in known]


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""

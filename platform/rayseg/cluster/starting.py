"""Starting the parts of the local stack: ports, commands, waiting for an answer, and an error that names the log."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from rayseg.cluster import head, home, processes, record
from rayseg.cluster.processes import Recorded
from rayseg.cluster.record import PARTS, Stack
from rayseg.errors import ClusterError
from rayseg.tracking.mlflow_tracker import healthy, server_command

PORTS = {"ray": 6379, "dashboard": 8265, "mlflow": 5050}
"""Where each is looked for first. MLflow's own 5000 is taken on every macOS."""

Progress = Callable[[str], None]
Started = dict[str, "subprocess.Popen[bytes]"]


def planned(progress: Progress) -> Stack:
    """Draw an id and find free ports; nothing is started yet."""
    ports = {name: _free_port(name, preferred, progress) for name, preferred in PORTS.items()}
    number = secrets.token_hex(4)
    return Stack(
        id=number,
        started=time.time(),
        home=home.root(),
        root=home.project_root(),
        python=sys.executable,
        session_dir=record.session_dir(number),
        token_path=home.ensure_token(),
        ray_address=f"127.0.0.1:{ports['ray']}",
        dashboard_uri=f"http://127.0.0.1:{ports['dashboard']}",
        tracking_uri=f"http://127.0.0.1:{ports['mlflow']}",
    )


def start(stack: Stack, parts: Collection[str], progress: Progress, limit_s: float) -> Stack:
    """Start these parts side by side and wait until they answer; give the stack with their processes.

    Raises:
        ClusterError: one did not; whatever was started is ended again, as it is on Ctrl-C.
    """
    started: Started = {}
    try:
        record.save(stack)
        for part in parts:
            progress(f"{part}: starting; its log is {stack.log(part)}")
            started[part] = _launch(stack, part)
            stack = record.save(stack.model_copy(update={"sessions": stack.sessions | {part: started[part].pid}}))
        _wait(stack, dict(started), progress, limit_s)
        kept = tuple(process for process in stack.processes if process.part not in parts)
        return record.save(stack.model_copy(update={"processes": kept + _recorded(stack, parts)}))
    except BaseException:
        record.clear(stack, parts)
        if set(parts) == set(PARTS):
            (stack.home / "stack.json").unlink(missing_ok=True)
        raise
    finally:
        for process in started.values():
            process.returncode = process.poll() or 0  # they outlive us on purpose, which subprocess would warn of


def taken(port: int) -> bool:
    """Whether somebody listens on this port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port that was just closed counts as taken
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def answers(stack: Stack, part: str) -> bool:
    """Whether a part answers now."""
    return healthy(stack.tracking_uri, 0) if part == "mlflow" else head.ask(stack.dashboard_uri, home.token(), 5.0).up


def _free_port(name: str, preferred: int, progress: Progress) -> int:
    port = next(port for port in range(preferred, preferred + 1000) if not taken(port))
    if port != preferred:
        progress(f"port {preferred} is taken: {name} uses {port}")
    return port


def _launch(stack: Stack, part: str) -> subprocess.Popen[bytes]:
    """Start a part in a session of its own: a closed terminal or a Ctrl-C here does not reach it."""
    argv, environ, folder = _ray(stack) if part == "ray" else _mlflow(stack)
    environ |= {processes.ID: stack.id, processes.PART: part}
    environ |= {"RAYSEG_HOME": str(stack.home), "RAYSEG_TRACKING_URI": stack.tracking_uri}
    with open(os.open(stack.log(part), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
        return subprocess.Popen(
            argv, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _ray(stack: Stack) -> tuple[list[str], dict[str, str], Path]:
    for folder in (stack.session_dir, stack.session_dir / "tmp"):
        folder.mkdir(mode=0o700)  # fails where it exists: nobody can have laid it out for us
    argv = head.command(stack.session_dir, stack.ports["ray"], stack.ports["dashboard"])
    environ = head.environment(
        os.environ, token_path=stack.token_path, dashboard_uri=stack.dashboard_uri, session_dir=stack.session_dir
    )
    return argv, environ, stack.root  # the head's folder is where `ray job submit jobs/x.py` looks for jobs/x.py


def _mlflow(stack: Stack) -> tuple[list[str], dict[str, str], Path]:
    argv, environ = server_command(stack.home, stack.ports["mlflow"])
    return argv, environ, stack.home / "mlflow"


def _wait(stack: Stack, waiting: Started, progress: Progress, limit_s: float) -> None:
    began = time.monotonic()
    while waiting:
        for part, process in list(waiting.items()):
            code = process.poll()  # `ray start` ends when the head runs; the MLflow server never does
            if code is not None and (code or part == "mlflow"):
                raise _failed(stack, part, f"ended with exit code {code}")
            if (code == 0 or part == "mlflow") and answers(stack, part):
                progress(f"{part}: up at {stack.uri(part)} after {time.monotonic() - began:.1f} s")
                del waiting[part]
            elif time.monotonic() - began > limit_s:
                raise _failed(stack, part, f"did not answer within {limit_s:.0f} s")
        time.sleep(0.2)


def _failed(stack: Stack, part: str, what: str) -> ClusterError:
    with contextlib.suppress(OSError):  # the reason is often only in Ray's own logs, and those go with its folder
        source = stack.session_dir / "r" / "session_latest" / "logs"
        shutil.copytree(source, stack.home / "logs" / "ray", dirs_exist_ok=True)
    said = [line.strip() for line in stack.log(part).read_text(errors="replace").splitlines() if line.strip()]
    last = f": {said[-1][-120:]}" if said else ""
    return ClusterError(f"{part} {what}{last}", stack.log(part), "read that log, then `rayseg up` again")


def _recorded(stack: Stack, parts: Collection[str]) -> tuple[Recorded, ...]:
    found = [(_role(stack, process), process) for process in record.members(stack, parts)]
    return tuple(processes.record(*role, process) for role, process in found if role is not None)


def _role(stack: Stack, process: psutil.Process) -> tuple[str, str] | None:
    """Say what a process is to the stack if the stack cannot be without it."""
    with contextlib.suppress(psutil.Error):
        if process.name() in record.HEAD:
            return "ray", process.name()
        if any(word.endswith("dashboard/dashboard.py") for word in process.cmdline()):
            return "ray", "dashboard"
        if process.pid == stack.sessions.get("mlflow"):
            return "mlflow", "server"
    return None

"""The Ray head of the local stack: how it is started, and whether it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayseg.cluster import probe
from rayseg.schema import Value

OBJECT_STORE_BYTES = 200_000_000  # batches never pass through it; Ray's default would be 30 % of the memory
STOP_WAIT_S = 30  # Ray kills a stopped job after 3 s, before its trials have committed
NOT_INHERITED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_JOB_CONFIG_JSON_ENV_VAR")


class Answering(Value):
    """What the head says of itself: total resources, jobs that run or wait; `why` it is not up."""

    up: bool
    why: str = ""
    cpus: float = 0.0
    gpus: float = 0.0
    jobs: int = 0


def command(session_dir: Path, ray_port: int, dashboard_port: int) -> list[str]:
    """Give the argv that starts a head whose sockets, but for two ports, take whatever port is free.

    Ray opens its own folder to everybody, so it gets one inside `session_dir`, which is 0700.
    """
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    start = ["start", "--head", f"--port={ray_port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
    ports = [f"--dashboard-port={dashboard_port}", "--dashboard-agent-listen-port=0"]
    workers = ["--min-worker-port=0", "--max-worker-port=0"]
    memory = [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={session_dir / 'r'}"]
    return [*ray, *start, *ports, *workers, *memory, "--disable-usage-stats", "--log-color=false"]


def environment(base: Mapping[str, str], *, token_path: Path, dashboard_uri: str, session_dir: Path) -> dict[str, str]:
    """Give the head's environment, which every job inherits: token, loopback, this Python's programs first.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 is what puts every socket on 127.0.0.1; --node-ip-address does not.
    """
    environ = {name: value for name, value in base.items() if name not in NOT_INHERITED}
    programs = os.path.dirname(sys.executable)
    environ.setdefault("TMPDIR", str(session_dir / "tmp"))
    environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", str(STOP_WAIT_S))
    return environ | {
        "PATH": os.pathsep.join([programs, *environ.get("PATH", os.defpath).split(os.pathsep)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_API_SERVER_ADDRESS": dashboard_uri,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_START_HOOK": "rayseg.cluster.head.without_client_server",
    }


def without_client_server(ray_params: Any, head: bool) -> None:
    """Leave out the server for ray:// clients: one more door and one more process that nothing here uses."""
    ray_params.ray_client_server_port = None


def ask(dashboard_uri: str, token: str | None, timeout_s: float) -> Answering:
    """Ask the head for its nodes and jobs."""
    found = {}
    for path in ("/api/v0/nodes", "/api/jobs/"):
        answer = probe.get(dashboard_uri + path, token=token, timeout_s=timeout_s)
        if answer.status != 200:
            return Answering(up=False, why=f"HTTP {answer.status}" if answer.status else answer.body)
        found[path] = answer.parsed()
    try:
        alive = [node for node in found["/api/v0/nodes"]["data"]["result"]["result"] if node["state"] == "ALIVE"]
        active = [job for job in found["/api/jobs/"] if job["status"] in ("PENDING", "RUNNING")]
    except (KeyError, TypeError):
        return Answering(up=False, why="an answer that is not Ray's")
    total = {name: sum(float(node["resources_total"].get(name, 0)) for node in alive) for name in ("CPU", "GPU")}
    why = "" if alive else "no node is alive"
    return Answering(up=bool(alive), why=why, cpus=total["CPU"], gpus=total["GPU"], jobs=len(active))

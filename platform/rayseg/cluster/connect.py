"""Connecting to Ray: the cluster that runs this job, or a closed one inside this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayseg.cluster import capacity, home
from rayseg.errors import ClusterError

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Ray's own tables and notices are left out: a sweep prints its own lines."""

BEHAVIOUR = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Paths stay what they were; reports are not held back two seconds; a stopped trial has time to draw its figures; a
Ctrl-C is ours to answer, for Tune's own answer looks like a sweep that came to its end."""


@contextmanager
def ray_session(*, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[None]:
    """Be connected to Ray: to `RAY_ADDRESS` where that is set (inside a job it is), else to a Ray of our own.

    Our own listens on loopback only, asks for a token, and ends with this process. `dashboard` is needed by trials
    that run Ray Train: without it, a stopped one keeps its placement group.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    os.environ.update(QUIET | BEHAVIOUR)
    embedded = not os.environ.get("RAY_ADDRESS")
    if embedded:
        _close_sockets_to_others()
    import ray

    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": BEHAVIOUR | QUIET},
    }
    if embedded:
        options |= {"address": "local", "num_cpus": num_cpus, "object_store_memory": 200_000_000}
        options |= {"include_dashboard": dashboard}
        if dashboard:
            port = free_port()
            os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
            options["dashboard_port"] = port
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        address = os.environ.get("RAY_ADDRESS", "a local Ray")
        raise ClusterError(f"cannot connect to Ray: {error}", address, "see `rayseg status`") from None
    try:
        yield
    finally:
        ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """Give the cluster's total resources by name, once it has grown to all that it may have."""
    import ray

    return capacity.grown(ray.cluster_resources())


def _close_sockets_to_others() -> None:
    """Listen on loopback only, and ask for a token of our own: both must stand before Ray is imported."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(home.ensure_token()))


def free_port() -> int:
    """Give a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

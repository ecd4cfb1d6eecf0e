"""The MLflow server: how to start it, whether it answers, and what a client's environment must be. No mlflow here."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from rayseg.errors import ClusterError

_ALWAYS = {
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # loses points when the server's pool is full
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_UNLESS_SET = {
    # the replay tries again by itself; MLflow's retries would also create a run twice when an answer is lost
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # s; more only for artifacts that a server passes on slowly
}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def check_uri(uri: str) -> str:
    """Give the tracking address without a trailing slash.

    Raises:
        ClusterError: it is no http(s) address of a server, or holds a password.
    """
    if "@" in uri:
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise ClusterError("it holds a user or a password", "tracking address", fix)
    try:
        parts = urllib.parse.urlsplit(uri)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        fine = False
    if not fine:
        fix = "start the local server with `rayseg up`, or give the http(s) address of one"
        raise ClusterError(f"'{uri[:80]}' is no tracking server", "tracking address", fix)
    return uri.rstrip("/")


def prepare_client(uri: str) -> None:
    """Set this process's environment for MLflow's client, before it is imported."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    host = urllib.parse.urlsplit(uri).hostname
    if host in _LOOPBACK and urllib.request.getproxies():
        around = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if host not in around.split(","):
            os.environ["no_proxy"] = f"{around},{host}".lstrip(",")


def server_command(home: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Give argv and the whole environment of a server on loopback that keeps everything under `home`/mlflow.

    One worker with job execution off starts in 6 s and 0.5 GB where the default takes 12 s and 2-3 GB. Start it in a
    session of its own and end its process group: it has children. No one else may open the database.
    """
    folder = home.absolute() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = inherited | _ALWAYS | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return [sys.executable, "-m", "mlflow", "server", *address, *places], environment


def healthy(uri: str, timeout_s: float) -> bool:
    """Wait up to `timeout_s` for the server to answer (120 s is right after a start); 0 asks once."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({})) if _is_local(uri) else None
    ask = opener.open if opener else urllib.request.urlopen
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with ask(f"{check_uri(uri)}/health", timeout=max(1.0, min(5.0, timeout_s))) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.25)


def _is_local(uri: str) -> bool:
    return urllib.parse.urlsplit(uri).hostname in _LOOPBACK

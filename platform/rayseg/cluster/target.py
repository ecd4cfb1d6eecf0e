"""Which cluster a job goes to, and whether it may: reachable, asking for a token, of our Ray version."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from rayseg.cluster import home, probe, record
from rayseg.errors import ClusterError, UsageError
from rayseg.schema import Value


class Target(Value):
    """A head's HTTP address. `local_root` is the jobs' folder where the head is the local stack's."""

    address: str
    local_root: Path | None = None

    def token(self) -> str | None:
        """Read its token: the local stack's, else what RAY_AUTH_TOKEN(_PATH) or ~/.ray/auth_token say, as Ray does."""
        if self.local_root is not None:
            return home.token()
        if given := os.environ.get("RAY_AUTH_TOKEN"):
            return given
        try:
            path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
            return path.read_text().strip() or None
        except (OSError, RuntimeError):
            return None


def choose(address: str | None) -> Target:
    """Take the address given, else RAY_API_SERVER_ADDRESS, else the local stack.

    Raises:
        UsageError: not the http(s) address of a head.
        ClusterError: no address, and no stack is up.
    """
    stack = record.load()
    address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or "").rstrip("/")
    if stack is not None and address in ("", stack.dashboard_uri):
        return Target(address=stack.dashboard_uri, local_root=stack.root)
    if not address:
        raise ClusterError("no cluster to submit to", "local stack", "rayseg up")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError("not a head's address", address.rpartition("@")[2], "use http://HOST:8265, the dashboard's")
    return Target(address=address)


def check(target: Target, *, insecure: bool) -> None:
    """Ask the head who it is before anything is sent to it.

    Raises:
        ClusterError: out of reach, open to everybody, the token would travel in clear text, is missing or refused,
            or another version of Ray.
    """
    open_answer = probe.get(f"{target.address}/api/version")
    if open_answer.status == 0:
        fix = "rayseg up" if target.local_root else "check host, port and network; is the head up?"
        raise ClusterError("no head answers", target.address, fix)
    if not insecure and not _loopback(target.address):
        _refuse_exposed(target, asks_for_token=open_answer.status in (401, 403))
    answer = (
        open_answer if open_answer.status == 200 else probe.get(f"{target.address}/api/version", token=target.token())
    )
    if answer.status in (401, 403):
        what = "the head refuses the token" if target.token() else "the head asks for a token"
        raise ClusterError(what, target.address, "set RAY_AUTH_TOKEN_PATH to the file with the head's token")
    _check_version(target, answer)


def _refuse_exposed(target: Target, *, asks_for_token: bool) -> None:
    if not asks_for_token:
        fix = "start it with RAY_AUTH_MODE=token, or say --insecure"
        raise ClusterError("the head runs anybody's code: it asks for no token", target.address, fix)
    if target.address.startswith("http://") and not _private(target.address):
        fix = "use https or an ssh tunnel, or say --insecure"
        raise ClusterError("the token would cross a public network in clear text", target.address, fix)


def _check_version(target: Target, answer: probe.Answer) -> None:
    ours = importlib.metadata.version("ray")
    found = answer.parsed()
    theirs = found.get("ray_version") if isinstance(found, dict) else None
    if answer.status != 200 or not isinstance(theirs, str):
        raise ClusterError(f"not a Ray head (HTTP {answer.status})", target.address, "use the dashboard's address")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ClusterError(f"the head runs Ray {theirs}, this is {ours}", target.address, "install the same on both")


def _addresses(uri: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    host = urlsplit(uri).hostname or ""
    try:
        return [ipaddress.ip_address(str(info[4][0])) for info in socket.getaddrinfo(host, None)]
    except (OSError, ValueError):
        return []


def _loopback(uri: str) -> bool:
    found = _addresses(uri)
    return bool(found) and all(address.is_loopback for address in found)


def _private(uri: str) -> bool:
    found = _addresses(uri)
    return bool(found) and all(address.is_private for address in found)

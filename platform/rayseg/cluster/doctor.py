"""`rayseg doctor`: versions, devices, disk and the stack, or a cluster's file; what is wrong is said with its fix."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from rayseg.cluster import clusterfile, home, stack
from rayseg.cluster.clusterfile import Finding
from rayseg.errors import ClusterError

FLOORS = {"ray": "2.56", "torch": "2.10", "pillow": "12.3", "mlflow": "3.17.2", "pyarrow": "14.0.1"}
"""Oldest versions without a known hole that this project meets."""
FREE_GIB = 5


def examine() -> Iterator[str]:
    """Say what was found, a line each.

    Raises:
        ClusterError: at the end, when something is wrong.
    """
    yield f"python {platform.python_version()}, {platform.system()} {platform.machine()}"
    wrong: list[str] = []
    for name, floor in FLOORS.items():
        found = importlib.metadata.version(name)
        if _numbers(found) < _numbers(floor):
            wrong.append(f"{name} {found} is older than {floor}")
        yield f"{name} {found} (at least {floor})"
    yield _devices()
    free = shutil.disk_usage(home.root()).free / 2**30
    if free < FREE_GIB:
        wrong.append(f"only {free:.1f} GiB are free at {home.root()}")
    yield f"{free:.0f} GiB free at {home.root()}"
    yield from stack.status().lines()
    if wrong:
        raise ClusterError("; ".join(wrong), "doctor", "run `make setup` again, or make room")
    yield "nothing is wrong"


def examine_file(path: Path, *, head_on_spot: bool = False) -> list[Finding]:
    """List what is to say about a cluster's file, and about the files here that it sends to the nodes.

    Raises:
        UsageError: it cannot be read.
    """
    found = clusterfile.read(path)
    listed = clusterfile.examine(found, str(path), head_on_spot=head_on_spot)
    mounts = found.get("file_mounts") if isinstance(found, dict) else None
    return listed + [each.within(str(path)) for each in _sources(mounts if isinstance(mounts, dict) else {})]


def _sources(mounts: Mapping[str, object]) -> Iterator[Finding]:
    """Check that what is to be mounted is there, and that nobody else reads the secrets among it."""
    for place, source in mounts.items():
        here, where = Path(str(source)).expanduser(), f"file_mounts.{place}"
        secret = any(word in here.name for word in ("token", "password", "secret"))
        if not here.exists():
            fix = (
                f"make it: (umask 077; openssl rand -hex 32 > {source})" if secret else "begin in the repository's root"
            )
            yield Finding(clusterfile.CLUSTER, f"there is no {source}", where, fix)
        elif secret and stat.S_IMODE(here.stat().st_mode) & 0o077:
            yield Finding(clusterfile.CLUSTER, f"others may read {source}", where, f"chmod 600 {source}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU; {torch.get_num_threads()} CPU threads"
    return "; ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

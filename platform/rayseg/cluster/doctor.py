"""`rayseg doctor`: versions, devices, disk and the stack; what is wrong is said with its fix."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator

from rayseg.cluster import home, stack
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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU; {torch.get_num_threads()} CPU threads"
    return "; ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

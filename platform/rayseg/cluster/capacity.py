"""What a cluster that grows on demand may grow to: Ray's autoscaler tells it to nobody, so RAYSEG_GROWS_TO does.

It is set where the head is started (cluster.yaml): `RAYSEG_GROWS_TO=CPU=120,GPU=14`, the sum over all workers that may
come. Without it, a sweep on a head without workers would take CPUs alone, and one on a single node that node alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from rayseg.errors import UsageError

NAME = "RAYSEG_GROWS_TO"


def parse(text: str) -> dict[str, int]:
    """Read `CPU=120,GPU=14`.

    Raises:
        UsageError: it is not written so.
    """
    if not re.fullmatch(r"(CPU|GPU)=\d{1,6}(,(CPU|GPU)=\d{1,6})?", text):
        raise UsageError(f"cannot read '{text[:60]}'", NAME, "write it as CPU=120,GPU=14")
    return {name: int(size) for name, size in (part.split("=") for part in text.split(","))}


def text(sizes: Mapping[str, int]) -> str:
    """Write it."""
    return ",".join(f"{name}={size}" for name, size in sorted(sizes.items()))


def grown(now: Mapping[str, float]) -> dict[str, float]:
    """Give a cluster's resources as they will be once all workers are there that may come.

    Raises:
        UsageError: RAYSEG_GROWS_TO cannot be read.
    """
    told = parse(os.environ[NAME]) if os.environ.get(NAME) else {}
    return {**now, **{name: max(now.get(name, 0.0), float(size)) for name, size in told.items()}}

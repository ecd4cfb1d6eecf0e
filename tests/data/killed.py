"""A process that writes shards and is killed on the way: what the tests of staging start, without importing them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_sets import make_card

from rayseg.data import shards
from rayseg.errors import DataError


def die() -> None:
    """End as a power cut would end this process: no handler runs, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)


def write(files: Path, out: Path, *, samples: int, progress: Callable[[int, int], None] | None = None) -> shards.Report:
    """Write the tiny set in shards of that many samples."""
    shards.SHARD_SAMPLES = samples
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # what dies is a process and not the machine
    return shards.write(make_card(), files, out, workers=2, progress=progress)


def after_sample(files: Path, out: Path, number: int) -> None:
    """Die when that many samples are written."""
    write(files, out, samples=2, progress=lambda done, total: die() if done == number else None)


def before_event(files: Path, out: Path, number: int) -> None:
    """Die before that change of the file system: a file opened, renamed or removed, a folder made or removed."""
    seen, watched = 0, str(out.parent)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        here = event == "open" and str(arguments[0]).startswith(watched)
        if here or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            seen += 1
            if seen == number:
                die()

    sys.addaudithook(count)
    write(files, out, samples=2)


def tell(files: Path, out: Path, samples: int, queue: Any, barrier: Any) -> None:
    """Write, waiting for the others before the first sample, and say what came of it."""
    barrier.wait(60)
    try:
        report = write(files, out, samples=samples)
        queue.put((report.unchanged, report.samples))
    except DataError as error:
        queue.put(str(error))

"""Files that outlast a loss of power: written, synced, replaced in one step; and locks that a dead process gives up."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import IO

LOCK = ".lock"
"""Held in its folder by the driver of a sweep and by rank 0 of a run, as long as they live."""


def write_text(path: Path, text: str) -> None:
    """Write a small text file and wait until the disk has it; its name is the caller's to sync."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file in one step, synced."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write_text(partial, text)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process alone, without waiting; the system frees it when the process dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

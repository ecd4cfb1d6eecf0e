"""A split decoded once: its pixels as one memory-mapped file, for data sets whose decoding costs more than a disk.

    <digest of the samples>.u8    each sample's image (H, W, 3) and mask (H, W), one after the other, then 32 bytes of
                                  SHA-256 for each sample

The name is the hash of the samples, so a file never serves others. It is written under another name by one process,
while others wait, and each sample is compared with its hash when this process first reads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rayseg.data import cursor
from rayseg.data.index import Index, Ints
from rayseg.data.reader import Sample, ShardSet
from rayseg.errors import DataError

HASH = 32
FIX = "remove it: the next start decodes the split again"


class DecodedSet:
    """A decoded split: reads as a `ShardSet` does, and gives read-only views of the file."""

    def __init__(self, path: Path, table: Index) -> None:
        self.path, self.index = path, table
        self._starts = _starts(table)
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._seen = bytearray(len(table))

    def __len__(self) -> int:
        return len(self.index)

    def read(self, position: int) -> Sample:
        """Give the sample at `position`.

        Raises:
            DataError: the file's bytes are not those that were written.
        """
        row = range(len(self))[position]
        start, height, width = int(self._starts[row]), int(self.index.height[row]), int(self.index.width[row])
        pixels = self._bytes[start : int(self._starts[row + 1])]
        if not self._seen[row]:
            at = int(self._starts[-1]) + HASH * row
            if hashlib.sha256(pixels.data).digest() != self._bytes[at : at + HASH].tobytes():
                raise DataError("the sample's decoded pixels changed", f"{self.path}: {self.index.key[row]}", FIX)
            self._seen[row] = 1
        image, mask = np.split(pixels, [3 * height * width])
        return Sample(str(self.index.key[row]), image.reshape(height, width, 3), mask.reshape(height, width))


def open_decoded(shards: ShardSet, folder: str | Path, *, threads: int, say: Callable[[str], None]) -> DecodedSet:
    """Open a split's decoded file in `folder`; decode the whole split first where there is none.

    Raises:
        DataError: no room for it, the folder cannot be written, a sample cannot be read, or the file was cut.
    """
    path = Path(folder).expanduser().absolute() / f"{cursor.digest(shards.index)}.u8"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _write(shards, path, threads, say)
    except OSError as error:
        what = f"cannot write the decoded split: {error.strerror or error}"
        raise DataError(what, path, "make room, or set data.decoded_cache elsewhere") from None
    if path.stat().st_size != _size(shards.index):
        raise DataError("the decoded split was cut", path, FIX)
    return DecodedSet(path, shards.index)


def _write(shards: ShardSet, path: Path, threads: int, say: Callable[[str], None]) -> None:
    size, starts, partial = _size(shards.index), _starts(shards.index), path.with_suffix(".part")
    free = shutil.disk_usage(path.parent).free
    if size > free:
        what = f"decoded, {len(shards)} samples take {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        raise DataError(what, path.parent, "make room, or leave data.decoded_cache out")
    say(f"decoding {len(shards)} samples, {size / 2**30:.1f} GiB, to {path}")

    def put(row: int) -> None:
        sample = shards.read(row)
        pixels = sample.image.tobytes() + sample.mask.tobytes()
        os.pwrite(descriptor, pixels, int(starts[row]))
        os.pwrite(descriptor, hashlib.sha256(pixels).digest(), int(starts[-1]) + HASH * row)

    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="rayseg-decode") as pool:
            for _ in pool.map(put, range(len(shards))):
                pass
        os.fsync(descriptor)
        partial.rename(path)
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def _starts(table: Index) -> Ints:
    """Say where each sample begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(4 * table.height * table.width)])


def _size(table: Index) -> int:
    return int(_starts(table)[-1]) + HASH * len(table)

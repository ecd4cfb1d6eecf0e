"""A folder on this machine that keeps remote shards, no larger than it may be, and shared by all processes here.

    <sha256>.tar    a whole shard, named by its hash; its modification time says when it was last used
    <sha256>.part   one being fetched, locked by who fetches it and at its full length from the start
    lock            held while room is made

A file gets its name by one rename after its bytes were hashed, so under that name there is never anything else. Whoever
wants a shard that is being fetched waits at the lock of its `.part`. Readers open a shard, read and close it, so what
is removed to make room is gone from the disk at once, and an open file outlives its removal.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rayseg.data.manifest import ShardFile
from rayseg.errors import UsageError

Fetch = Callable[[], Iterable[bytes]]
GIB = 2**30


class MismatchError(OSError):
    """What was fetched is not what the manifest promises."""


class ShardCache:
    """Keeps at most `limit` bytes of shards in `folder`; what was used longest ago makes room."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def check_fits(self, shards: Iterable[ShardFile]) -> None:
        """Refuse a cache that cannot hold the largest shard.

        Raises:
            UsageError: it is too small.
        """
        largest = max(file.size for file in shards)
        if largest > self.limit:
            what = f"a cache of {self.limit / GIB:.3g} GiB for shards of up to {largest / GIB:.3g} GiB"
            raise UsageError(what, self.folder, "raise data.remote.cache_gib, or write smaller shards")

    def open(self, shard: ShardFile, fetch: Fetch) -> int:
        """Open a shard for reading, fetching it first where it is missing; the caller closes the descriptor.

        Raises:
            MismatchError: what came is of another size or another hash.
            OSError: fetching failed, or the disk is full.
        """
        while True:
            with contextlib.suppress(FileNotFoundError):
                return self._opened(shard)
            if (descriptor := self._fetched(shard, fetch)) is not None:
                return descriptor

    def forget(self, shard: ShardFile) -> None:
        """Remove a shard whose bytes turned out wrong: the disk lost them after they were hashed."""
        self._path(shard).unlink(missing_ok=True)

    def size(self) -> int:
        """Sum up what lies there, with what is being fetched."""
        if not self.folder.exists():
            return 0
        with self._locked():
            return self._held()

    def _held(self) -> int:
        return sum(size for _, _, size in self._files())

    def _opened(self, shard: ShardFile) -> int:
        descriptor = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC)
        now = time.time_ns()  # the system's own stamp is four milliseconds coarse
        os.utime(descriptor, ns=(now, now))
        return descriptor

    def _fetched(self, shard: ShardFile, fetch: Fetch) -> int | None:
        """Fetch a shard and give its descriptor; None where another process had the same thought: look again."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._path(shard).with_suffix(".part")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            ours = _is(descriptor, partial)  # it may have been renamed or removed while we waited
            if not ours or self._path(shard).exists():
                if ours:  # the shard came between our look and our lock
                    partial.unlink()
                os.close(descriptor)
                return None
            try:
                os.ftruncate(descriptor, 0)  # what a killed process left of it
                self._make_room(descriptor, shard.size)
                _fill(descriptor, shard, fetch())
                with self._locked():  # or a listing might see it under neither name
                    partial.rename(self._path(shard))
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _make_room(self, descriptor: int, size: int) -> None:
        """Claim `size` bytes under the folder's lock; wait where all the rest is being fetched right now."""
        while True:
            with self._locked():
                held = size + self._held()
                for _, path, freed in sorted(self._files()):
                    if held > self.limit and (path.suffix == ".tar" or _orphaned(path, descriptor)):
                        path.unlink(missing_ok=True)
                        held -= freed
                if held <= self.limit:
                    return os.ftruncate(descriptor, size)
            time.sleep(0.02)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _files(self) -> Iterator[tuple[int, Path, int]]:
        """List when each file was used, its path and its size; what goes meanwhile is left out."""
        for entry in os.scandir(self.folder):
            if entry.name.endswith((".tar", ".part")):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime_ns, Path(entry.path), status.st_size

    def _path(self, shard: ShardFile) -> Path:
        return self.folder / f"{shard.sha256}.tar"


def _fill(descriptor: int, shard: ShardFile, chunks: Iterable[bytes]) -> None:
    """Write what comes, never more than was promised, and compare its hash."""
    total, written = hashlib.sha256(), 0
    for chunk in chunks:
        if written + len(chunk) > shard.size:
            raise MismatchError(f"more than its {shard.size} bytes came")
        total.update(chunk)
        left = memoryview(chunk)
        while left:  # a disk that is nearly full takes a part and says so only when asked again
            done = os.pwrite(descriptor, left, written)
            left, written = left[done:], written + done
    if written != shard.size:
        raise MismatchError(f"{written} of its {shard.size} bytes came")
    if total.hexdigest() != shard.sha256:
        raise MismatchError("its bytes are not those that were written")


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _orphaned(path: Path, own: int) -> bool:
    """Tell whether nobody fetches a `.part` any more: a process that was killed has lost its lock."""
    if _is(own, path):
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False

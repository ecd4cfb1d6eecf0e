"""Staging: where shards wait until all of them are there, so that a killed command goes on and never half-appears.

    .OUT.0123456789abcdef/     beside OUT; the number is the hash of card, root and options
        lock                   held by the command that works here; the system lets go of it whatever happens
        parts/                 what is being written
        done/NAME.json         what a finished shard holds: written last, so it vouches for the shard
        shards/                becomes OUT by one rename

A finished shard is taken over only where its source files were not touched since and its bytes have their hash. One
that another process still writes for a command that is dead harms nothing: the same input gives the same bytes, and a
shard gets its name by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.data import index
from rayseg.data.card import Card
from rayseg.data.index import Row
from rayseg.data.manifest import ShardFile
from rayseg.data.pairs import Drawn, Pair
from rayseg.durable import sync

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.2
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What some network file systems answer. Without a lock a second command does the same work; the first to end wins."""
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What a rename answers where something has the name by now."""


class Task(NamedTuple):
    """A shard to write: where it waits, its name and split, its pairs, and how. `inputs` is a hash of all that."""

    base: Path
    name: str
    split: str
    members: tuple[Pair | Drawn, ...]
    card: Card
    image: str
    inputs: str


class Written(NamedTuple):
    """A finished shard: its rows, and the pixels of each value or colour that the card does not know."""

    name: str
    file: ShardFile
    rows: list[Row]
    unknown: dict[str, int]


class Stage:
    """A staging folder that this process holds."""

    def __init__(self, base: Path, target: Path) -> None:
        self.base, self.target, self.shards = base, target, base / "shards"
        self.spent = False

    def adopt(self, tasks: Iterable[Task]) -> dict[str, Written]:
        """Take over what an earlier command finished, and remove everything else that it left."""
        found = {task.name: _finished(task) for task in tasks}
        kept = {name: written for name, written in found.items() if written is not None}
        shutil.rmtree(self.base / "parts", ignore_errors=True)
        for folder, suffix in (("done", ".json"), ("shards", "")):
            (self.base / folder).mkdir(exist_ok=True)
            for path in (self.base / folder).iterdir():
                if path.name.removesuffix(suffix) not in kept:
                    path.unlink()
        (self.base / "parts").mkdir()
        return kept

    def publish(self) -> bool:
        """Bring everything to the disk and give the folder its name; False where another command was first."""
        for path in self.shards.iterdir():
            if path.suffix != ".tar":  # a shard has been brought there when it was finished
                sync(path)
        sync(self.shards)
        self.spent = True
        try:
            self.shards.rename(self.target)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            self.spent = False
            raise
        sync(self.target.parent)
        return True


@contextlib.contextmanager
def claim(target: Path, identity: str) -> Iterator[Stage]:
    """Hold the staging folder of `target` for these inputs, after any other command that holds it.

    It stays when something goes wrong and finished shards are in it; else it goes, with the parents made for it.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    base = target.with_name(f".{target.name}.{identity[:16]}")
    lock = _wait_for_lock(base)
    stage = Stage(base, target)
    try:
        yield stage
    finally:
        shutil.rmtree(base / "parts", ignore_errors=True)
        if stage.spent or not waiting(base):
            shutil.rmtree(base, ignore_errors=True)
        os.close(lock)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def waiting(base: Path) -> int:
    """Count the finished shards of a staging folder."""
    return len(list(base.glob("done/*.json")))


def left(target: Path) -> list[Path]:
    """Find the staging folders of a target in which finished shards wait."""
    return [base for base in _all_of(target) if waiting(base)]


def sweep(target: Path) -> None:
    """Remove what commands of any inputs left for a target that is taken now; what another holds stays."""
    for base in _all_of(target):
        with contextlib.suppress(OSError):  # another user's, maybe
            if (lock := _lock(base)) is not None:
                shutil.rmtree(base, ignore_errors=True)
                os.close(lock)


def keep(task: Task, part: Path, written: Written) -> Written:
    """Give a finished shard its name, and then write down that it is finished."""
    part.rename(task.base / "shards" / task.name)
    note = task.base / "parts" / uuid.uuid4().hex
    rows = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in written.rows]
    text = json.dumps(
        [task.inputs, written.file.size, written.file.sha256, rows, written.unknown], default=np.ndarray.tolist
    )
    note.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", "utf-8")
    sync(note)
    note.rename(task.base / "done" / f"{task.name}.json")
    return written


def _finished(task: Task) -> Written | None:
    """Read what an earlier command finished, where it is whole and of the same inputs."""
    try:
        total, _, text = (task.base / "done" / f"{task.name}.json").read_text("utf-8").partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != total:
            return None
        inputs, size, sha256, rows, unknown = json.loads(text)
        if inputs != task.inputs:
            return None
        with (task.base / "shards" / task.name).open("rb") as file:
            whole = (
                os.fstat(file.fileno()).st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256
            )
    except (OSError, ValueError):
        return None
    return (
        Written(task.name, ShardFile(size=size, sha256=sha256), [_row(row) for row in rows], unknown) if whole else None
    )


def _row(values: list[Any]) -> Row:
    named: dict[str, Any] = dict(zip(Row._fields, values, strict=True))
    hashes = {name: bytes.fromhex(named[name]) for name in index.HASHES}
    return Row(**named | hashes | {"class_pixels": np.array(named["class_pixels"], np.int64)})


def _all_of(target: Path) -> list[Path]:
    found = target.parent.glob(f".{glob.escape(target.name)}.*")
    return sorted(
        path for path in found if re.fullmatch(r"[0-9a-f]{16}", path.name.rpartition(".")[2]) and path.is_dir()
    )


def _wait_for_lock(base: Path) -> int:
    said = False
    while True:
        with contextlib.suppress(FileNotFoundError):  # the one who held it has just removed it
            base.mkdir(mode=0o755, parents=True, exist_ok=True)
            if (lock := _lock(base)) is not None:
                return lock
            if not said:
                _LOG.warning("another `rayseg shard` writes %s: waiting for it to end", base)
                said = True
        time.sleep(_WAIT_S)


def _lock(base: Path) -> int | None:
    """Lock the folder; None where another holds it, or removed it while we were at it."""
    descriptor = os.open(base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(base / "lock")):
            return descriptor
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return descriptor
        if not isinstance(error, (BlockingIOError, FileNotFoundError)):
            raise
    os.close(descriptor)
    return None

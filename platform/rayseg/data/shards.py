"""Shards: a data set's audited samples as tars that any WebDataset tool reads, with an index beside them.

Threads read, check and hash the pairs; one writer takes them in the order of their keys, so the bytes do not depend on
the number of workers. The folder appears under its name by one rename, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rayseg.data import audit, index, manifest, pairs
from rayseg.data.archive import Writer
from rayseg.data.card import Card
from rayseg.data.index import Index, Row
from rayseg.data.manifest import Manifest, ShardFile
from rayseg.data.pairs import Drawn, Pair, Pairs
from rayseg.data.verify import verify as verify
from rayseg.errors import DataError, UsageError
from rayseg.schema import Value

Progress = Callable[[int, int], None]


class Report(Value):
    """What `write` did: samples by split, bytes of all shards, what to tell the user, whether all was there."""

    out: str
    samples: dict[str, int]
    bytes: int
    warnings: tuple[str, ...] = ()
    unchanged: bool = False


def write(
    card: Card, root: str | Path | None, out: str | Path, *, workers: int = 1, progress: Progress | None = None
) -> Report:
    """Check every pair of the data set and write shards, index and `dataset.json` to the new folder `out`.

    `progress(done, total)` is called from this thread after each sample. A folder that already holds the same samples
    is left as it is. Whatever fails, Ctrl-C included, nothing stays behind.

    Raises:
        UsageError: the card and `root` do not go together, or `workers` is out of range.
        DataError: a file is missing or wrong (it is named), or `out` holds something else.
    """
    if not 1 <= workers <= 256:
        raise UsageError(f"{workers} workers", "--workers", "use 1..256")
    target = Path(out).resolve()
    try:
        found = pairs.find(card, root)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            return _unchanged(card, found, target, workers)
        with _temporary(target) as folder:
            done, table = _fill(folder, card, found, workers, progress)
            _publish(folder, target, done)
    except OSError as error:
        what, where = f"cannot write the shards: {error.strerror or error}", error.filename or target
        raise DataError(
            what, where, "check its permissions and the room on the disk, or choose another --out"
        ) from None
    return _report(card, target, done, table)


def _fill(folder: Path, card: Card, found: Pairs, workers: int, progress: Progress | None) -> tuple[Manifest, Index]:
    total, rows, files = sum(map(len, found.values())), list[Row](), dict[str, ShardFile]()
    for split, members in found.items():
        with (
            Writer(folder, split, files) as tars,
            contextlib.closing(audit.in_order(members, card, workers)) as samples,
        ):
            for sample in samples:
                rows.append(tars.add(sample))
                if progress is not None:
                    progress(len(rows), total)
    table = index.from_rows(rows)
    audit.refuse_empty_splits(table, card)
    index.write(folder, table)
    done = Manifest(card=card, samples=index.counts(table), shards=files, rows_sha256=index.digest(table))
    manifest.write(folder, done)
    return done, table


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Make a folder beside the target; take it away again, with the parents made for it, unless it was renamed."""
    made = [parent for parent in target.parents if not parent.exists()]
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _publish(folder: Path, target: Path, done: Manifest) -> None:
    """Bring everything to the disk, then give the folder its name; of two writers of one folder the first wins."""
    for path in [*folder.iterdir(), folder]:
        _to_disk(path)
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise
        if not target.is_dir() or manifest.read(target) != done:
            raise _taken(target) from None
    _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unchanged(card: Card, found: Pairs, target: Path, workers: int) -> Report:
    """Compare what lies in `target` with what would be written: hashing takes a tenth of the time of an audit."""
    if not (target / manifest.MANIFEST).is_file():
        raise _taken(target)
    old = manifest.read(target)
    table = index.read(target, old)
    members = [(split, pair) for split, pairs_of_split in found.items() for pair in pairs_of_split]
    wanted = [(split, pair.key) for split, pair in members]
    if old.card != card or list(zip(table.split, table.key, strict=True)) != wanted:
        raise _taken(target)
    manifest.check_sizes(target, old)
    with ThreadPoolExecutor(workers, thread_name_prefix="rayseg-hash") as pool:
        hashes = b"".join(pool.map(_sha256, [pair for _, pair in members]))
    if hashes != table.sha256.tobytes():
        raise _taken(target)
    return _report(card, target, old, table).model_copy(update={"unchanged": True})


def _sha256(pair: Pair | Drawn) -> bytes:
    return hashlib.sha256(b"".join(pair.load())).digest()


def _taken(target: Path) -> DataError:
    return DataError("it exists and holds something else", target, "choose another --out, or remove it first")


def _report(card: Card, target: Path, done: Manifest, table: Index) -> Report:
    total = sum(file.size for file in done.shards.values())
    said = audit.warnings(table, card, done.samples)
    return Report(out=str(target), samples=done.samples, bytes=total, warnings=said)

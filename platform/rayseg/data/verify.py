"""The full check of a folder of shards: every byte of it follows from the index, the card and the samples' hashes.

WebDataset passes over most damage without a word (a cut between members, a flipped bit in a header or in pixels, two
tars in one file), so nothing here is left to a tar reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rayseg.data import archive, images, index, manifest, strangers
from rayseg.data.index import BLOCK, Index, Row
from rayseg.data.manifest import MANIFEST, PAGE, Manifest, ShardFile, broken
from rayseg.errors import DataError


def verify(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Read the whole folder and compare it with its index, shard by shard; `progress(done, total)` counts shards.

    Raises:
        DataError: the first fault, with the shard and the reason.
    """
    for fault in faults(folder, progress):
        raise fault


def faults(
    folder: str | Path, progress: Callable[[int, int], None] | None = None, *, workers: int = 1
) -> Iterator[DataError]:
    """Find every damaged file of the folder, with the first reason of each; at most `workers` shards are in memory.

    Raises:
        DataError: `dataset.json` or the index is damaged, so that nothing else can be said.
    """
    folder = Path(folder)
    whole = manifest.read(folder)
    table = index.read(folder, whole)
    yield from _around(folder, whole)
    with ThreadPoolExecutor(workers, thread_name_prefix="rayseg-verify") as pool:
        parts = [(folder / name, file, table.where(table.shard == name)) for name, file in whole.shards.items()]
        for done, fault in enumerate(pool.map(lambda part: _of_shard(*part), parts), start=1):
            if fault is not None:
                yield fault
            if progress is not None:
                progress(done, len(parts))


def _around(folder: Path, whole: Manifest) -> Iterator[DataError]:
    for name in sorted(path.name for path in folder.glob("*.tar") if path.name not in whole.shards):
        yield broken(f"a shard that {MANIFEST} does not list", folder / name)
    try:
        data = _read(folder / PAGE, whole.page.size)
        if ShardFile(size=max(len(data), 1), sha256=hashlib.sha256(data).hexdigest()) != whole.page:
            yield broken("the audit page changed", folder / PAGE)
    except DataError as error:
        yield error


def _of_shard(path: Path, file: ShardFile, rows: Index) -> DataError | None:
    try:
        data = _read(path, file.size)
        for fault in _faults(data, file, rows, path):
            return broken(fault, path)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return broken("bytes between the samples changed", path)
    except DataError as error:
        return error
    return None


def _read(path: Path, size: int) -> bytes:
    """Read what should be there and a little more, however large the file is."""
    try:
        with path.open("rb") as opened:
            return opened.read(size + 2 * BLOCK)
    except OSError as error:
        raise broken(f"cannot read the file: {error.strerror}", path) from None


class _Place(NamedTuple):
    """A member as the row has it."""

    name: str
    offset: int
    size: int


def _places(row: Row) -> tuple[_Place, _Place, _Place]:
    after = row.mask_offset + row.mask_size + len(archive.padding(row.mask_size)) + BLOCK
    return (
        _Place(archive.image_name(row.key, row.image_ext), row.image_offset, row.image_size),
        _Place(archive.mask_name(row.key), row.mask_offset, row.mask_size),
        _Place(archive.description_name(row.key), after, len(archive.description(row))),
    )


def _faults(data: bytes, file: ShardFile, rows: Index, path: Path) -> Iterator[str]:
    """Walk the tar in the order of the index and name what is not as it was written."""
    at, seen = 0, set[str]()
    if fault := strangers.at_start(data):
        yield fault
    for row in (rows.row(int(i)) for i in np.argsort(rows.image_offset)):
        image, mask, text = _places(row)
        for place in (image, mask, text):
            if place is text:
                yield from _of_sample(data, row, f"{path}: {row.key}")
            if at + BLOCK > len(data):
                where = f"in the header of {place.name}" if at < len(data) else f"between members, before {place.name}"
                yield _truncated(data, file, rows, where)
            if fault := _of_header(data, at, place, seen):
                yield fault
            at += BLOCK + place.size + len(archive.padding(place.size))
            seen.add(place.name)
            if at > len(data):
                yield _truncated(data, file, rows, f"in the data of {place.name}")
        if data[text.offset : text.offset + text.size] != archive.description(row):
            yield f"the description of sample '{row.key}' changed"
    if data[at:] != archive.end(at):
        short = len(data) < file.size
        yield _truncated(data, file, rows, "after the last sample") if short else strangers.after(data, at)


def _of_header(data: bytes, at: int, place: _Place, seen: set[str]) -> str | None:
    if fault := strangers.at(data, at, place.name, place.size, seen=seen):
        return fault
    if place.offset != at + BLOCK:
        return f"the index has {place.name} at byte {place.offset}, the shard at {at + BLOCK}"
    return None


def _of_sample(data: bytes, row: Row, where: str) -> Iterator[str]:
    image, mask = (data[place.offset : place.offset + place.size] for place in _places(row)[:2])
    if hashlib.sha256(image + mask).digest() != row.sha256:
        yield f"the bytes of sample '{row.key}' changed"
    if any(images.size(part, where) != (row.height, row.width) for part in (image, mask)):
        yield f"sample '{row.key}' is not of the index's size {row.height}x{row.width}"


def _truncated(data: bytes, file: ShardFile, rows: Index, where: str) -> str:
    lost = rows.key[rows.mask_offset + rows.mask_size > len(data)]
    which = f"{len(lost)} samples from '{lost[0]}' on are lost" if len(lost) else "its end is lost"
    return f"truncated at {len(data)} of {file.size} bytes, {where}: {which}"

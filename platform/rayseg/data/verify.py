"""The full check of a folder of shards: every byte of it follows from the index, the card and the samples' hashes.

WebDataset passes over most damage without a word (a cut between members, a flipped bit in a header or in pixels, two
tars in one file), so nothing here is left to a tar reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rayseg.data import archive, images, index, manifest
from rayseg.data.index import Index
from rayseg.data.manifest import MANIFEST, ShardFile, broken
from rayseg.errors import DataError


def verify(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Read the whole folder and compare it with its index, shard by shard; `progress(done, total)` counts shards.

    Raises:
        DataError: the first fault, with the shard and the reason.
    """
    folder = Path(folder)
    whole = manifest.read(folder)
    table = index.read(folder, whole)
    if strangers := sorted(path.name for path in folder.glob("*.tar") if path.name not in whole.shards):
        raise broken(f"a shard that {MANIFEST} does not list", folder / strangers[0])
    for done, (name, file) in enumerate(whole.shards.items(), start=1):
        _verify_shard(folder / name, file, table.where(table.shard == name))
        if progress is not None:
            progress(done, len(whole.shards))


def _verify_shard(path: Path, file: ShardFile, rows: Index) -> None:
    try:
        found = path.stat().st_size
        with path.open("rb") as opened:
            data = opened.read(found if found == file.size else 512)
    except OSError as error:
        raise broken(f"cannot read the shard: {error.strerror}", path) from None
    if found != file.size:
        raise _wrong_size(path, data, found, file.size, rows)
    for fault in _faults(memoryview(data), rows, path):
        raise broken(fault, path)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise broken("bytes between the samples changed", path)


def _wrong_size(path: Path, start: bytes, found: int, wanted: int, rows: Index) -> DataError:
    if not found:
        return broken("the shard is empty", path)
    if start[257:262] != b"ustar":
        return broken(f"no tar: it starts with {start[:24]!r}", path)
    if found > wanted:
        return broken(f"{found - wanted} bytes too many: something was appended", path)
    lost = rows.key[rows.mask_offset + rows.mask_size > found]
    which = f"{len(lost)} samples from '{lost[0]}' on are lost" if len(lost) else "its end is lost"
    return broken(f"truncated at {found} of {wanted} bytes: {which}", path)


def _faults(data: memoryview, rows: Index, path: Path) -> Iterator[str]:
    """Walk the tar in the order of the index and name what is not as it was written."""
    at = 0
    for row in np.argsort(rows.image_offset):
        key, extension = str(rows.key[row]), str(rows.image_ext[row])
        image = (archive.image_name(key, extension), int(rows.image_offset[row]), int(rows.image_size[row]))
        mask = (archive.mask_name(key), int(rows.mask_offset[row]), int(rows.mask_size[row]))
        parts = []
        for name, offset, size in (image, mask):
            head = archive.header(name, size)
            if offset != at + len(head):
                yield f"the index has {name} at byte {offset}, the shard at {at + len(head)}"
            if data[at:offset] != head:
                yield f"the header of {name} is damaged"
            parts.append(bytes(data[offset : offset + size]))
            at = offset + size + len(archive.padding(size))
        if hashlib.sha256(b"".join(parts)).digest() != rows.sha256[row].tobytes():
            yield f"the bytes of sample '{key}' changed"
        wanted = (int(rows.height[row]), int(rows.width[row]))
        if any(images.size(part, f"{path}: {key}") != wanted for part in parts):
            yield f"sample '{key}' is not of the index's size {wanted[0]}x{wanted[1]}"
    if data[at:] != archive.end(at):
        yield "something follows the last sample"

"""The tar inside: plain USTAR whose every byte follows from the members' names, sizes and data.

A sample is three members: `KEY.png` (or jpg, webp), `KEY.mask.png` and `KEY.json`, which says what the index says of
it. WebDataset and `tar` read it. A header that is not byte for byte what `header` gives is damage, so links, sparse
members, PAX records and paths need no rules of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from rayseg.data.audit import Audited
from rayseg.data.index import Row
from rayseg.data.manifest import MAX_SHARD_BYTES, ShardFile
from rayseg.errors import DataError


def image_name(key: str, extension: str) -> str:
    """Name the image's member."""
    return f"{key}.{extension}"


def mask_name(key: str) -> str:
    """Name the mask's member; WebDataset groups it with the image by what stands before the first dot."""
    return f"{key}.mask.png"


def description_name(key: str) -> str:
    """Name the description's member."""
    return f"{key}.json"


def description(row: Row) -> bytes:
    """Describe a sample for those who read a shard without its index."""
    *classes, ignored = row.class_pixels.tolist()
    words = {"key": row.key, "split": row.split, "height": row.height, "width": row.width}
    counts = {"class_pixels": classes, "ignored_pixels": ignored, "unknown_pixels": row.unknown_pixels}
    return json.dumps(words | counts | {"sha256": row.sha256.hex()}, separators=(",", ":")).encode()


def header(name: str, size: int) -> bytes:
    """Make a regular file's header: owner 0, group 0, mode 0444, time 0."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """Fill the last block of a member of `size` bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)


def end(size: int) -> bytes:
    """Close an archive of `size` bytes: two empty blocks, then up to a whole record, as `tar` writes it."""
    closing = 2 * tarfile.BLOCKSIZE
    return bytes(closing + -(size + closing) % tarfile.RECORDSIZE)


class Writer:
    """Writes one shard to a file that must not exist; a context manager that closes it."""

    def __init__(self, path: Path, split: str, shard: str) -> None:
        self._split, self._shard, self._size = split, shard, 0
        self._file, self._hash = open(path, "xb"), hashlib.sha256()  # noqa: SIM115

    def add(self, sample: Audited) -> Row:
        """Append a sample and say where it lies."""
        image, mask = sample.image, sample.mask.mask
        image_offset = self._member(image_name(sample.key, sample.extension), image)
        mask_offset = self._member(mask_name(sample.key), mask)
        row = Row(
            key=sample.key,
            split=self._split,
            shard=self._shard,
            image_offset=image_offset,
            image_size=len(image),
            mask_offset=mask_offset,
            mask_size=len(mask),
            image_ext=sample.extension,
            height=sample.height,
            width=sample.width,
            unknown_pixels=sample.mask.unknown_pixels,
            class_pixels=sample.class_pixels,
            sha256=hashlib.sha256(image + mask).digest(),
            source_sha256=sample.source_sha256,
            pixels_sha256=sample.pixels_sha256,
        )
        self._member(description_name(sample.key), description(row))
        return row

    def finish(self) -> ShardFile:
        """End the tar and bring it to the disk.

        Raises:
            DataError: it became larger than a shard may be.
        """
        self._put(end(self._size))
        if self._size > MAX_SHARD_BYTES:
            raise DataError(f"shard of {self._size} bytes", self._shard, "code its images smaller: --image jpeg:95")
        self._file.flush()
        os.fsync(self._file.fileno())
        return ShardFile(size=self._size, sha256=self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _member(self, name: str, data: bytes) -> int:
        self._put(header(name, len(data)))
        offset = self._size
        self._put(data)
        self._put(padding(len(data)))
        return offset

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

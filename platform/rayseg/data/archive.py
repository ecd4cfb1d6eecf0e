"""The tar inside: plain USTAR whose every byte follows from the members' names, sizes and data.

WebDataset and `tar` read it. A header that is not byte for byte what `header` gives is damage, so links, sparse
members, PAX records and paths need no rules of their own.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from rayseg.data.audit import Audited
from rayseg.data.index import Row
from rayseg.data.manifest import ShardFile

SHARD_BYTES = 64 * 2**20
SHARD_SAMPLES = 256
"""A shard ends at the first of both: small enough to fetch again, large enough that a set is no swarm of files."""


def image_name(key: str, extension: str) -> str:
    """Name the image's member."""
    return f"{key}.{extension}"


def mask_name(key: str) -> str:
    """Name the mask's member; WebDataset groups it with the image by what stands before the first dot."""
    return f"{key}.mask.png"


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
    """Writes one split's samples to `<split>-NNNNNN.tar` in `folder`, and each finished tar's size and hash to `files`.

    A context manager: on leaving without an error it ends the last tar.
    """

    def __init__(self, folder: Path, split: str, files: dict[str, ShardFile]) -> None:
        self._folder, self._split, self._files = folder, split, files
        self._open(0)

    def add(self, sample: Audited) -> Row:
        """Append a sample and say where it lies."""
        image, mask = sample.image, sample.mask
        if self._samples and (self._samples >= SHARD_SAMPLES or self._size + len(image) + len(mask) > SHARD_BYTES):
            self._finish()
            self._open(self._number + 1)
        image_offset = self._member(image_name(sample.key, sample.extension), image)
        mask_offset = self._member(mask_name(sample.key), mask)
        self._samples += 1
        place = (sample.key, self._split, self._name, image_offset, len(image), mask_offset, len(mask))
        return Row(*place, sample.extension, sample.height, sample.width, sample.class_pixels, sample.sha256)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._file.close()

    def _open(self, number: int) -> None:
        self._number, self._samples, self._size = number, 0, 0
        self._name = f"{self._split}-{number:06d}.tar"
        self._file, self._hash = open(self._folder / self._name, "xb"), hashlib.sha256()  # noqa: SIM115

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

    def _finish(self) -> None:
        self._put(end(self._size))
        self._file.close()
        self._files[self._name] = ShardFile(size=self._size, sha256=self._hash.hexdigest())

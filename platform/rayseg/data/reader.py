"""Reading shards: any sample by its position, from a folder here or a remote one, checked against its hash."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from rayseg.data import headers, images, index, manifest, remote, tolerance, transport
from rayseg.data.card import Card
from rayseg.data.images import Pixels
from rayseg.data.index import Index
from rayseg.data.manifest import Manifest, broken
from rayseg.data.remote import RemoteStore
from rayseg.data.store import LocalStore, Store
from rayseg.data.transport import Url
from rayseg.errors import DataError, UsageError, nearest

BadShard = Literal["error", "skip"]


class Sample(NamedTuple):
    """An image `(H, W, 3)` uint8 RGB and its labels `(H, W)` uint8."""

    key: str
    image: Pixels
    mask: Pixels


class Samples(Protocol):
    """What a loader reads: samples by their position, and the rows of the index for them."""

    index: Index

    def __len__(self) -> int: ...

    def read(self, position: int) -> Sample:
        """Give one sample."""


class ShardSet:
    """One split of a folder of shards, in the order of the keys. Threads may share it, and it may be pickled or forked.

    `folder` names the folder or the URL.
    """

    def __init__(self, store: Store, card: Card, table: Index) -> None:
        self.folder, self.card, self.index, self._store = store.where, card, table, store
        self.num_classes, self.ignore_index, self.class_names = card.num_classes, card.ignore_index, card.class_names
        self._checksums = np.full(len(table), -1, np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, range(len(self)))

    def read(self, position: int) -> Sample:
        """Read and decode the sample at `position`.

        Raises:
            DataError: its bytes are not those that were written, or cannot be read.
            ClusterError: remote storage cannot be reached.
        """
        row, table = range(len(self))[position], self.index
        key, where = str(table.key[row]), f"{self.folder}/{table.shard[row]}: {table.key[row]}"
        image, mask = self._checked(row, where)
        wanted = (int(table.height[row]), int(table.width[row]))
        if {headers.size(image, where), headers.size(mask, where)} == {wanted}:
            sample = Sample(key, images.decode_image(image, where), images.decode_mask(mask, where))
            if {sample.image.shape[:2], sample.mask.shape} == {wanted}:
                return sample
        raise broken(f"it is not of the index's size {wanted[0]}x{wanted[1]}", where)

    def part(self, share: float) -> ShardSet:
        """Keep the samples whose keys' hashes lie below `share`, and so those of every smaller share.

        Raises:
            UsageError: there is none.
        """
        if share == 1:
            return self
        drawn = [int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") for key in self.index.key]
        chosen = np.array([number < share * 2**64 for number in drawn], np.bool_)
        if not chosen.any():
            what = f"data.share = {share} of {len(self)} samples is none"
            raise UsageError(what, self.folder, "raise data.share")
        return ShardSet(self._store, self.card, self.index.where(chosen))

    def shard_lengths(self) -> tuple[int, ...]:
        """Count the samples of each shard, in their order in the split."""
        return tuple(len(list(rows)) for _, rows in itertools.groupby(self.index.shard))

    def check_order(self, mixed_shards: int | None) -> None:
        """Refuse an order of reading that the store is not made for.

        Raises:
            UsageError: the cache of a remote folder cannot hold the shards that are read in turn.
        """
        self._store.check_order(set(self.index.shard), mixed_shards)

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self._store.close()

    def _checked(self, row: int, where: str) -> tuple[memoryview, memoryview]:
        """Read image and mask at once, for they lie side by side, and compare their hash.

        What was compared once is later compared by its checksum, a third of the time: it finds what a disk does.
        """
        table = self.index
        for _ in range(2):
            image, mask = self._bytes(row, where)
            checksum = zlib.crc32(mask, zlib.crc32(image))
            if checksum == self._checksums[row] or _sha256(image, mask) == table.sha256[row].tobytes():
                self._checksums[row] = checksum
                return image, mask
            if not self._store.forget(table.shard[row]):
                break
        raise broken("the sample's bytes changed", where)

    def _bytes(self, row: int, where: str) -> tuple[memoryview, memoryview]:
        table = self.index
        start, gap = int(table.image_offset[row]), int(table.mask_offset[row] - table.image_offset[row])
        try:
            data = memoryview(self._store.read(table.shard[row], start, gap + int(table.mask_size[row])))
        except OSError as error:
            raise broken(f"cannot read the shard: {error.strerror}", where) from None
        return data[: int(table.image_size[row])], data[gap:]


def open_shards(
    path: str | Path, split: str, config: remote.Config | None = None, *, bad_shard: BadShard = "error"
) -> ShardSet:
    """Open a split of a folder that `rayseg shard` wrote; pixels are read later, each sample hash-checked.

    The folder is one here, or an https, s3 or gs URL, whose shards come into the cache of `config` when they are first
    read. A split that the card makes of others is those, one after the other. `bad_shard="skip"` also opens a split
    of which up to 0.1 % of the samples lie in shards that are cut or missing; reading such a sample raises.

    Raises:
        DataError: no such folder or split, a URL that is refused, or the folder is not as it was written.
        ClusterError: remote storage cannot be reached.
    """
    config = config or remote.Config()
    place = transport.parse(path, config.allow_url_schemes)
    if isinstance(place, Url):
        whole, table = remote.open_folder(place, config)
        return _split(RemoteStore(place, whole.shards, config), whole, table, split)
    whole = manifest.read(place)
    opened = _split(LocalStore(place), whole, index.read(place, whole), split)
    if bad_shard == "skip":
        tolerance.check_shards(place, opened.index)
    else:
        for name in whole.card.members(split):
            manifest.check_sizes(place, whole, name)
    return opened


def _split(store: Store, whole: Manifest, table: Index, split: str) -> ShardSet:
    if split not in whole.card.splits:
        raise DataError(f"no split '{split}'", store.where, nearest(split, whole.card.splits))
    return ShardSet(store, whole.card, table.where(np.isin(table.split.astype(str), whole.card.members(split))))


def _sha256(image: memoryview, mask: memoryview) -> bytes:
    total = hashlib.sha256(image)
    total.update(mask)
    return total.digest()

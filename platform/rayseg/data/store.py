"""Where the bytes of shards come from: a folder here (`LocalStore`), or a remote one (`remote.RemoteStore`)."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

MAX_OPEN = 256
"""Shards kept open; beyond that a shard is opened for each read, well below the usual limit of 1024 files."""


class Store(Protocol):
    """Reads parts of shards. Threads may share it, and it may be pickled or forked; `where` names it in errors."""

    where: str

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Read `size` bytes; fewer where the shard ends before.

        Raises:
            OSError: the shard cannot be read.
        """

    def forget(self, shard: str) -> bool:
        """Take note that the bytes of a shard were wrong, and tell whether reading again may give others."""

    def check_order(self, shards: Collection[str], mixed_shards: int | None) -> None:
        """Refuse an order of reading in which the same bytes would be fetched again and again.

        Raises:
            UsageError: too many of `shards` are read in turn.
        """

    def close(self) -> None:
        """Let go of what is open; a later read opens it again."""


class LocalStore:
    """A folder that is mounted here. Reads name their offset, so descriptors hold no state to disturb."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._descriptors: dict[str, int] = {}

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Read with `os.pread`, through a descriptor that stays open."""
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = os.open(os.path.join(self.where, shard), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            self._keep(shard, descriptor)

    def forget(self, shard: str) -> bool:
        """There is no other copy."""
        return False

    def check_order(self, shards: Collection[str], mixed_shards: int | None) -> None:
        """Any order will do."""

    def close(self) -> None:
        """Close the shards."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _keep(self, shard: str, descriptor: int) -> None:
        """Keep it unless another thread was first; `setdefault` is atomic, and a lock would not survive a fork."""
        room = len(self._descriptors) < MAX_OPEN
        if not room or self._descriptors.setdefault(shard, descriptor) != descriptor:
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

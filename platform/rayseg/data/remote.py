"""Shards elsewhere: `https://`, `s3://` and `gs://` folders, read through a cache on this machine's disk.

A manifest names files of its own folder alone, and every file is compared with the hash that the manifest gives.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rayseg.data import index, manifest, transport
from rayseg.data.cache import GIB, Fetch, MismatchError, ShardCache
from rayseg.data.index import Index
from rayseg.data.manifest import MANIFEST, Manifest, ShardFile
from rayseg.data.transport import AwayError, MissingError, Url
from rayseg.errors import ClusterError, DataError, UsageError
from rayseg.schema import Value

WAITS_S = (0.5, 2.0)
"""How long to wait before the second and the third attempt."""
MAX_MANIFEST_BYTES, MAX_INDEX_BYTES = 64 * 2**20, 4 * 2**30


class Config(Value):
    """Where remote shards are kept and how much of them; `allow_url_schemes` is for a server inside a test or a lab.

    `cache_dir` is ~/.cache/rayseg when absent; every machine has its own, and its processes share it.
    """

    cache_dir: str | None = None
    cache_gib: Annotated[float, Field(gt=0)] = 64.0
    allow_url_schemes: tuple[Literal["http"], ...] = ()

    def cache(self) -> ShardCache:
        """Name the cache; nothing is made yet."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rayseg"
        folder = Path(self.cache_dir) if self.cache_dir else base
        return ShardCache(folder.expanduser().absolute(), int(self.cache_gib * GIB))


class RemoteStore:
    """A remote folder whose shards are fetched whole, hash-checked, into the cache, and read there."""

    def __init__(self, url: Url, shards: Mapping[str, ShardFile], config: Config) -> None:
        self.where, self._url, self._shards, self._config = str(url), url, shards, config
        self.cache = config.cache()
        self.cache.check_fits(shards.values())

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Read from the cache; a shard that is not there is fetched, in up to three attempts.

        Raises:
            DataError: the shard is missing, or is not what the manifest says.
            ClusterError: the storage cannot be reached, or the cache cannot be written.
        """
        descriptor = self._open(shard)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def forget(self, shard: str) -> bool:
        """Drop the copy, so that it is fetched anew."""
        self.cache.forget(self._shards[shard])
        return True

    def check_order(self, shards: Collection[str], mixed_shards: int | None) -> None:
        """Refuse to go through more shards in turn than the cache holds: almost every sample would fetch one.

        Raises:
            UsageError: it would; it says how many fit.
        """
        sizes = sorted((self._shards[name].size for name in shards), reverse=True)
        fit = sum(end <= self.cache.limit for end in itertools.accumulate(sizes))
        if min(mixed_shards or len(sizes), len(sizes)) > fit:
            what = f"samples of {mixed_shards or len(sizes)} shards in turn, and a cache that holds {fit} of them"
            fix = f"set data.mixed_shards to {fit} or less, or raise data.remote.cache_gib"
            raise UsageError(what, self.cache.folder, fix)

    def close(self) -> None:
        """Nothing stays open."""

    def _open(self, shard: str) -> int:
        for wait in (*WAITS_S, None):
            try:
                return self.cache.open(self._shards[shard], self._fetch(shard))
            except OSError as error:
                if wait is None or not isinstance(error, AwayError | MismatchError):
                    raise _explained(error, f"{self.where}/{shard}", self.cache.folder) from None
            time.sleep(wait)
        raise AssertionError

    def _fetch(self, shard: str) -> Fetch:
        return functools.partial(transport.chunks, self._url, shard, self._config.allow_url_schemes)


def open_folder(url: Url, config: Config) -> tuple[Manifest, Index]:
    """Fetch and check what is small: `dataset.json` and the index.

    Raises:
        DataError: not there, or not as it was written.
        ClusterError: the storage cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="rayseg-") as local:
        folder = Path(local)
        try:
            _save(url, MANIFEST, folder, config, MAX_MANIFEST_BYTES)
            whole = manifest.read(folder)
            _save(url, index.TABLE, folder, config, MAX_INDEX_BYTES)
            return whole, index.read(folder, whole)
        except DataError as error:
            raise DataError(error.what, error.where.replace(local, str(url)), error.fix) from None


def _save(url: Url, name: str, folder: Path, config: Config, limit: int) -> None:
    for wait in (*WAITS_S, None):
        written = 0
        try:
            with (folder / name).open("wb") as file:
                for chunk in transport.chunks(url, name, config.allow_url_schemes):
                    written += file.write(chunk)
                    if written > limit:
                        raise DataError(f"a {name} of more than {limit} bytes", url, "this is no folder of shards")
            return
        except MissingError:
            raise DataError(f"no {name} in it", url, "copy a whole folder that `rayseg shard` wrote there") from None
        except OSError as error:
            if wait is None or not isinstance(error, AwayError):
                raise _explained(error, f"{url}/{name}", folder) from None
        time.sleep(wait)


def _explained(error: OSError, where: str, kept: Path) -> DataError | ClusterError:
    """Say whose fault it is: the folder's, the network's, or that of the disk on which it is `kept`."""
    if isinstance(error, MismatchError):
        return manifest.broken(f"the fetched shard is wrong: {error}", where)
    if isinstance(error, MissingError):
        return manifest.broken("the shard is missing", where)
    if isinstance(error, AwayError):
        return ClusterError(f"cannot fetch it: {error}", where, "look at the network and the credentials, then go on")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "no room for a shard" if full else f"cannot keep a shard: {error.strerror or error}"
    return ClusterError(what, kept, "make room, or set data.remote.cache_dir elsewhere")

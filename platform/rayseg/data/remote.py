"""Shards elsewhere: `https://`, `s3://` and `gs://` folders, read through a cache on this machine's disk.

A path that a config, a command or a commit names is data and no command: other schemes (`pipe:`, `http:`, `scp:`, ...)
are refused, braces and patterns stand for themselves, no variable of the environment rewrites a URL, a redirect keeps
to the schemes that are allowed, and a manifest names files of its own folder alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import itertools
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.error import HTTPError

from pydantic import Field

from rayseg.data import index, manifest
from rayseg.data.cache import GIB, Fetch, MismatchError, ShardCache
from rayseg.data.index import Index
from rayseg.data.manifest import MANIFEST, Manifest, ShardFile
from rayseg.errors import ClusterError, DataError, UsageError
from rayseg.schema import Value

SCHEMES = ("https", "s3", "gs")
CHUNK, TIMEOUT_S = 2**20, 30.0
WAITS_S = (0.5, 2.0)
"""How long to wait before the second and the third attempt."""
MAX_MANIFEST_BYTES, MAX_INDEX_BYTES = 64 * 2**20, 4 * 2**30
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_REST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._=+~-]+)*/?")


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


class Url(NamedTuple):
    """A remote folder: its scheme, and host or bucket with the path, without a slash at the end."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"


def parse(path: str | Path, config: Config) -> Url | Path:
    """Read where a folder of shards is: a URL, or a path here (also as `file:///...`).

    Raises:
        DataError: a scheme that is refused, or a URL with a user, a query, `..` or odd characters.
    """
    text = str(path)
    if (found := _SCHEME.match(text)) is None:
        return Path(text).expanduser().absolute()
    scheme, rest = found[1].lower(), text[found.end() :].removeprefix("//")
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    if scheme not in (*SCHEMES, *config.allow_url_schemes):
        fix = f"name a folder, or a URL of {', '.join(SCHEMES)}; a folder with a colon is ./{text.strip()[:40]}"
        raise DataError(f"shards are not read from '{scheme}:'", text[:80], fix)
    if not text[found.end() :].startswith("//") or not _REST.fullmatch(rest) or "/.." in rest:
        fix = f"write it as {scheme}://{'host' if 'http' in scheme else 'bucket'}/folder, no user, query or '..' in it"
        raise DataError("a URL that is not taken", re.sub(r"/[^/]*@", "/***@", text)[:80], fix)
    return Url(scheme, rest.rstrip("/"))


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
            ClusterError: the storage cannot be reached, or the disk is full.
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
                if wait is None or isinstance(error, FileNotFoundError) or error.errno == errno.ENOSPC:
                    raise _explained(error, f"{self.where}/{shard}", self.cache) from None
            time.sleep(wait)
        raise AssertionError

    def _fetch(self, shard: str) -> Fetch:
        return functools.partial(chunks, self._url, shard, self._config)


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


def chunks(url: Url, name: str, config: Config) -> Iterator[bytes]:
    """Give a file of the folder piece by piece.

    Raises:
        FileNotFoundError: it is not there.
        OSError: the storage cannot be reached, or refuses.
    """
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name), name
    with contextlib.closing(_opened(url, name, config)) as stream:
        while True:
            try:
                chunk = stream.read(CHUNK)
            except http.client.HTTPException as error:
                raise OSError(f"the connection broke: {error}") from None
            if not chunk:
                return
            yield chunk


def _save(url: Url, name: str, folder: Path, config: Config, limit: int) -> None:
    for wait in (*WAITS_S, None):
        written = 0
        try:
            with (folder / name).open("wb") as file:
                for chunk in chunks(url, name, config):
                    written += file.write(chunk)
                    if written > limit:
                        raise DataError(f"a {name} of more than {limit} bytes", url, "this is no folder of shards")
            return
        except FileNotFoundError:
            raise DataError(f"no {name} in it", url, "copy a whole folder that `rayseg shard` wrote there") from None
        except OSError as error:
            if wait is None:
                raise _explained(error, f"{url}/{name}", config.cache()) from None
        time.sleep(wait)


def _opened(url: Url, name: str, config: Config) -> Any:
    if url.scheme in ("s3", "gs"):
        return _bucket(url, config, os.getpid()).open_input_stream(f"{url.rest}/{name}")
    try:
        return _opener(config.allow_url_schemes).open(f"{url}/{name}", timeout=TIMEOUT_S)
    except HTTPError as error:
        with error:
            if error.code in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "not there") from None
            raise OSError(f"the server answers {error.code} {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error!r:.100}") from None


@functools.cache
def _opener(allowed: tuple[str, ...]) -> urllib.request.OpenerDirector:
    """Make what opens https alone: a redirect to another scheme finds nobody who takes it."""
    request = urllib.request
    opener = request.OpenerDirector()
    kinds: list[Any] = [request.ProxyHandler, request.UnknownHandler, request.HTTPDefaultErrorHandler]
    kinds += [request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.HTTPSHandler]
    for kind in [*kinds, request.HTTPHandler] if "http" in allowed else kinds:
        opener.add_handler(kind())
    return opener


@functools.cache
def _bucket(url: Url, config: Config, process: int) -> Any:
    """Make a file system for each process: its connections do not survive a fork. Credentials come from outside."""
    from pyarrow import fs

    if url.scheme == "gs":
        return fs.GcsFileSystem()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint.startswith("http:") and "http" not in config.allow_url_schemes:
        fix = "use https, or allow it with data.remote.allow_url_schemes"
        raise DataError("an S3 endpoint without TLS", endpoint, fix)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = fs.resolve_s3_region(url.rest.split("/")[0])
    scheme, _, host = endpoint.rpartition("://")
    options = {"scheme": scheme or "https", "endpoint_override": host.rstrip("/") or None, "region": region or None}
    return fs.S3FileSystem(connect_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S, **options)


def _explained(error: OSError, where: str, cache: ShardCache) -> DataError | ClusterError:
    what = " ".join((error.strerror or str(error)).split())[:120]
    if isinstance(error, MismatchError):
        return manifest.broken(f"the fetched shard is wrong: {what}", where)
    if isinstance(error, FileNotFoundError):
        return manifest.broken("the shard is missing", where)
    if error.errno == errno.ENOSPC:
        return ClusterError("no room for a shard", cache.folder, "make room, or set data.remote.cache_dir elsewhere")
    return ClusterError(f"cannot fetch it: {what}", where, "look at the network and the credentials, then go on")

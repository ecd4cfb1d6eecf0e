"""How the files of a remote folder come: what a URL may say, and the bytes over https or from a bucket.

A path that a config, a command or a commit names is data and no command: other schemes (`pipe:`, `http:`, `scp:`, ...)
are refused, braces and patterns stand for themselves, no variable of the environment rewrites a URL, and a redirect
keeps to the schemes that are allowed. What may be a secret (who logs in, a query) is in no message.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import re
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

from rayseg.errors import DataError

SCHEMES = ("https", "s3", "gs")
CHUNK, TIMEOUT_S = 2**20, 30.0
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_REST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[A-Za-z0-9._=+~-]+)*/?")


class MissingError(OSError):
    """The file is not there."""


class AwayError(OSError):
    """The storage cannot be reached or refuses, or the connection broke."""


class Url(NamedTuple):
    """A remote folder: its scheme, and host or bucket with the path, without a slash at the end."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"


def parse(path: str | Path, allowed: tuple[str, ...] = ()) -> Url | Path:
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
    if scheme not in (*SCHEMES, *allowed):
        fix = f"name a folder, or a URL of {', '.join(SCHEMES)}; a folder with a colon in its name by its whole path"
        raise DataError(f"shards are not read from '{scheme}:'", _shown(text), fix)
    if not text[found.end() :].startswith("//") or not _REST.fullmatch(rest) or "/.." in rest:
        fix = f"write it as {scheme}://{'host' if 'http' in scheme else 'bucket'}/folder, no user, query or '..' in it"
        raise DataError("a URL that is not taken", _shown(text), fix)
    return Url(scheme, rest.rstrip("/"))


def chunks(url: Url, name: str, allowed: tuple[str, ...] = ()) -> Iterator[bytes]:
    """Give a file of the folder piece by piece.

    Raises:
        MissingError: it is not there.
        AwayError: the storage cannot be reached or refuses, or the connection broke.
    """
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name), name
    try:
        with contextlib.closing(_opened(url, name, allowed)) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
            if left := getattr(stream, "length", None):  # the library takes a connection's end for the file's
                raise AwayError(f"the connection broke, {left} bytes before the end")
    except FileNotFoundError as error:
        raise MissingError(str(error)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # Arrow's own errors are of the second kind
        raise error if isinstance(error, AwayError) else AwayError(_line(error)) from None


def _opened(url: Url, name: str, allowed: tuple[str, ...]) -> Any:
    if url.scheme in ("s3", "gs"):
        return _bucket(url, allowed, os.getpid()).open_input_stream(f"{url.rest}/{name}")
    try:
        return _opener(allowed).open(f"{url}/{name}", timeout=TIMEOUT_S)
    except HTTPError as error:
        with error:
            if error.code in (404, 410):
                raise FileNotFoundError(error.code) from None
            raise AwayError(f"the server answers {error.code} {_line(error.reason)}") from None


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
def _bucket(url: Url, allowed: tuple[str, ...], process: int) -> Any:
    """Make a file system for each process: its connections do not survive a fork. Credentials come from outside."""
    from pyarrow import fs

    if url.scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=TIMEOUT_S))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint.startswith("http:") and "http" not in allowed:
        fix = "use https, or allow it with data.remote.allow_url_schemes"
        raise DataError("an S3 endpoint without TLS", _shown(endpoint), fix)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = fs.resolve_s3_region(url.rest.split("/")[0])
    scheme, _, host = endpoint.rpartition("://")
    options = {"scheme": scheme or "https", "endpoint_override": host.rstrip("/") or None, "region": region or None}
    return fs.S3FileSystem(connect_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S, **options)


def _shown(text: str) -> str:
    """Show what was given without what may be a secret: who logs in, a query, the rest of a command."""
    scheme, _, rest = text.strip().partition(":")
    shown = "***" if "@" in rest else re.split(r"[?#\s]", rest)[0]
    return f"{scheme}:{shown}"[:80]


def _line(what: object) -> str:
    return " ".join((getattr(what, "strerror", None) or str(what)).split())[:120]

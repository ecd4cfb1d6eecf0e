"""Strangers: what stands in a tar where a member's header should be, in words.

The header is compared byte for byte first; only what differs is parsed, so that a reason can be given. No size that a
stranger states is believed, and nothing is unpacked.
"""

from __future__ import annotations

import re
import tarfile

from rayseg.data.archive import header
from rayseg.data.index import BLOCK

_NAME = re.compile(rb"[A-Za-z0-9_-]{1,90}\.(png|jpg|webp)\0")
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file (it may unpack to any size)",
    tarfile.XHDTYPE: "a PAX record (it may state any size)",
    tarfile.XGLTYPE: "a PAX record (it may state any size)",
    tarfile.SOLARIS_XHDTYPE: "a PAX record (it may state any size)",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_LONGLINK: "a long name",
}


def at(data: bytes, place: int, name: str, size: int, *, seen: set[str]) -> str | None:
    """Say what is wrong with the header of the member `name` of `size` bytes at `place`; None where it is as written.

    `seen` are the members before it. The file reaches to the header's end.
    """
    block, wanted = data[place : place + BLOCK], header(name, size)
    if block == wanted:
        return None
    if not any(block):
        return f"the tar ends before {name}: the rest is missing"
    return _named(data, place, name, wanted, seen)


def at_start(data: bytes) -> str | None:
    """Say what the file is where it is no tar: damage of the first header leaves either its name or its mark."""
    if not data:
        return "the shard is empty"
    if data[257:262] != b"ustar" and not _NAME.match(data):
        return f"no tar: it starts with {data[:24]!r}"
    return None


def after(data: bytes, place: int) -> str:
    """Say what follows the last sample."""
    rest = data[place:]
    start = len(rest) - len(rest.lstrip(b"\0"))
    start -= start % BLOCK
    if rest[start + 257 : start + 262] == b"ustar":
        return f"a second tar begins at byte {place + start}: two are in one file"
    return "something follows the last sample"


def _named(data: bytes, place: int, name: str, wanted: bytes, seen: set[str]) -> str:
    try:
        found = tarfile.TarInfo.frombuf(data[place : place + BLOCK], "utf-8", "replace")
    except tarfile.TarError:
        return f"the header of {name} is damaged"
    other = f"{found.name[:60]!r}"
    if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return f"{_KINDS.get(found.type, 'no plain file')} stands where {name} should be"
    if found.name == name:
        return f"the header of {name} is another: it states {found.size} bytes"
    if found.name in seen:
        return f"duplicate: {other} stands a second time, where {name} should be"
    if data.find(wanted, place) > 0:
        return f"interleaved: {other} stands before {name}"
    return f"{name} is missing: {other} stands in its place"

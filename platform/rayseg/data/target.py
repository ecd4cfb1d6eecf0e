"""Targets: the folder that shards are to become, and what has its name already."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rayseg.data import index, manifest
from rayseg.data.card import Card
from rayseg.data.index import Index
from rayseg.data.manifest import Manifest
from rayseg.data.pairs import Drawn, Pair, Pairs
from rayseg.errors import DataError, UsageError


def named(out: str | Path) -> Path:
    """Give the folder's whole path.

    Raises:
        UsageError: a URL, which would become a folder called `s3:` here.
    """
    if re.match(r"[A-Za-z][\w+.-]+:/", str(out)):
        raise UsageError(f"{out} is no folder here", "--out", "write to one, then copy all of it there")
    return Path(out).resolve()


def is_free(target: Path) -> bool:
    """Tell whether nothing has the name, or an empty folder.

    Raises:
        DataError: an empty folder that something is mounted on: no other can take its name by a rename.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        return False
    if target.is_mount():
        raise DataError("nothing can be renamed to a mount point", target, f"name a folder in it: {target / 'shards'}")
    return True


def is_strange(target: Path) -> bool:
    """Tell whether what has the name is no folder of shards."""
    return not (target / manifest.MANIFEST).is_file()


def same(
    target: Path, card: Card, found: Pairs, image: str, progress: Callable[[int, int], None] | None
) -> tuple[Manifest, Index]:
    """Give what lies in `target` where it is what would be written: hashing takes a tenth of the time of an audit.

    Raises:
        DataError: it is something else, or damaged.
    """
    if is_strange(target):
        raise taken(target)
    old = manifest.read(target)
    table = index.read(target, old)
    members = [(split, pair) for split, pairs in found.items() for pair in pairs]
    wanted = [(split, pair.key) for split, pair in members]
    if (old.card, old.image) != (card, image) or list(zip(table.split, table.key, strict=True)) != wanted:
        raise taken(target)
    manifest.check_sizes(target, old)
    hashes = list[bytes]()
    with ThreadPoolExecutor(thread_name_prefix="rayseg-hash") as pool:
        for one in pool.map(_sha256, [pair for _, pair in members]):
            hashes.append(one)
            if progress is not None:
                progress(len(hashes), len(members))
    if b"".join(hashes) != table.source_sha256.tobytes():
        raise taken(target)
    return old, table


def taken(target: Path) -> DataError:
    """Make the error of a name that something else has."""
    return DataError("it exists and holds something else", target, "choose another --out, or remove it first")


def _sha256(pair: Pair | Drawn) -> bytes:
    return hashlib.sha256(b"".join(pair.source())).digest()

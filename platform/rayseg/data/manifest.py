"""`dataset.json`: what a folder of shards holds, and the hash of everything in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rayseg.data import recode
from rayseg.data.card import Card, Name
from rayseg.errors import DataError, UsageError
from rayseg.schema import Value, parse, to_dict

MANIFEST, PAGE = "dataset.json", "audit.html"
VERSION = 2
MAX_SHARD_BYTES, MAX_FILE_BYTES = 2**31, 64 * 2**20
MOST_UNKNOWN = 32
"""How many unknown values or colours of a split are named."""
KEY = r"[A-Za-z0-9_-]{1,90}"
"""What WebDataset reads back whole: it cuts a name at the first dot; USTAR has room for 100 with `.mask.png`."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ShardName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*-\d{6}\.tar$")]


class ShardFile(Value):
    """A shard, or the audit page, as it was written."""

    size: Annotated[int, Field(gt=0, le=MAX_SHARD_BYTES)]
    sha256: Sha256


class Manifest(Value):
    """`dataset.json`: what the folder holds, and the hash of everything in it.

    The card and its hash, how images are coded (`recode`) and by what, how many samples each split has, each shard's
    size and hash, the hash of the index's rows, the audit page's size and hash, and by split the values or colours
    that the masks hold and the card does not know, with their pixels (the most frequent).
    """

    format: Literal["rayseg-shards"] = "rayseg-shards"
    version: Literal[2] = 2
    card: Card
    card_sha256: Sha256
    image: Annotated[str, Field(pattern=recode.PATTERN)]
    encoder: str | None
    samples: Annotated[dict[Name, Annotated[int, Field(ge=1)]], Field(min_length=1)]
    shards: Annotated[dict[ShardName, ShardFile], Field(min_length=1)]
    rows_sha256: Sha256
    page: ShardFile
    unknown: dict[Name, dict[str, Annotated[int, Field(ge=1)]]] = {}


def card_sha256(card: Card) -> str:
    """Hash a card: what it says, not how its file is written."""
    return hashlib.sha256(json.dumps(to_dict(card), sort_keys=True).encode()).hexdigest()


def write(folder: Path, manifest: Manifest) -> None:
    """Write `dataset.json`."""
    (folder / MANIFEST).write_text(json.dumps(to_dict(manifest), indent=1) + "\n", "utf-8")


def read(folder: Path) -> Manifest:
    """Read `dataset.json`.

    Raises:
        DataError: no such folder, no such file in it, or a file of another version or another form.
    """
    path = folder / MANIFEST
    if not path.is_file():
        what = f"no {MANIFEST} in it" if folder.is_dir() else "no such folder here"
        raise DataError(what, folder, f"write shards with `rayseg shard CARD --root RAW --out {folder}`")
    try:
        mapping = json.loads(path.read_text("utf-8"))
        version = mapping["version"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise broken(f"cannot be read: {type(error).__name__}: {error}", path) from None
    if version != VERSION:
        fix = f"this rayseg reads {VERSION}: remove the folder and shard the data again"
        raise DataError(f"format version {version!r:.20}", path, fix)
    try:
        whole = parse(Manifest, mapping, path)
    except UsageError as error:
        raise broken(error.what, path) from None
    if card_sha256(whole.card) != whole.card_sha256:
        raise broken("the card is not the one that was written", path)
    return whole


def is_outdated(folder: Path) -> bool:
    """Tell whether another version of rayseg wrote the shards there, which this one cannot read."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
        return bool(found["format"] == "rayseg-shards" and found["version"] != VERSION)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def check_sizes(folder: Path, manifest: Manifest, split: str | None = None) -> None:
    """Look whether each shard (of one split) is there at its full size: cheap enough for every start.

    Raises:
        DataError: a shard is missing, cut, empty, or longer than it was written.
    """
    for name, file in manifest.shards.items():
        if split is None or name.rpartition("-")[0] == split:
            try:
                found = (folder / name).stat().st_size
            except OSError as error:
                raise broken(f"cannot read the shard: {error.strerror}", folder / name) from None
            if found != file.size:
                raise broken(f"shard of {found} bytes, not {file.size}", folder / name)


def broken(what: str, where: object) -> DataError:
    """Make the error of a folder that is not as it was written."""
    return DataError(what, where, "the folder was changed or copied in part: copy it again, or shard the data again")

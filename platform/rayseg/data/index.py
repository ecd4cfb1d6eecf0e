"""The index beside the shards: `index.parquet`, one row a sample; `dataset.json` vouches for it.

The row hash covers the rows and not the Parquet file, whose bytes name the library version that wrote them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayseg.data.images import EXTENSIONS, MAX_PIXELS
from rayseg.data.manifest import KEY, MANIFEST, MAX_FILE_BYTES, Manifest, broken

TABLE = "index.parquet"
BLOCK = 512
"""A tar's unit: a header is one, data fills whole ones."""
Ints = NDArray[np.int64]
Texts = NDArray[np.object_]


class Row(NamedTuple):
    """A sample: where its bytes lie in its shard, what they decode to, and three hashes.

    `class_pixels` counts each class and, last, the ignored pixels; `unknown_pixels` of those hold a value or colour
    that the card does not know. `sha256` is over the stored bytes (image, then mask), `source_sha256` over the source
    files' (image, then mask), `pixels_sha256` over the source image's pixels: equal for one picture in two files.
    """

    key: str
    split: str
    shard: str
    image_offset: int
    image_size: int
    mask_offset: int
    mask_size: int
    image_ext: str
    height: int
    width: int
    unknown_pixels: int
    class_pixels: Ints
    sha256: bytes
    source_sha256: bytes
    pixels_sha256: bytes


@dataclass(frozen=True, eq=False)
class Index:
    """The rows by column. `class_pixels` is `(n, C+1)`, the ignored pixels last; hashes are `(n, 32)` bytes."""

    key: Texts
    split: Texts
    shard: Texts
    image_offset: Ints
    image_size: Ints
    mask_offset: Ints
    mask_size: Ints
    image_ext: Texts
    height: Ints
    width: Ints
    unknown_pixels: Ints
    class_pixels: Ints
    sha256: NDArray[np.uint8]
    source_sha256: NDArray[np.uint8]
    pixels_sha256: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.key)

    def where(self, chosen: NDArray[np.bool_]) -> Index:
        """Keep the chosen rows."""
        return Index(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def row(self, position: int) -> Row:
        """Give one row."""
        values = {name: getattr(self, name)[position] for name in Row._fields}
        plain = {name: value.tobytes() if name in HASHES else value for name, value in values.items()}
        numbers = {name: int(value) for name, value in plain.items() if isinstance(value, np.integer)}
        return Row(**plain | numbers | {name: str(plain[name]) for name in _TEXTS})


HASHES = ("sha256", "source_sha256", "pixels_sha256")
_TEXTS = ("key", "split", "shard", "image_ext")


def from_rows(rows: Sequence[Row]) -> Index:
    """Turn rows into columns."""
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    hashes: dict[str, Any] = {name: _as_bytes(columns.pop(name)) for name in HASHES}
    kinds: dict[str, type] = dict.fromkeys(_TEXTS, object)
    arrays: dict[str, Any] = {name: np.array(column, kinds.get(name, np.int64)) for name, column in columns.items()}
    return Index(**arrays, **hashes)


def _as_bytes(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)


def digest(index: Index) -> str:
    """Hash the rows, whatever file they came from."""
    total = hashlib.sha256()
    for field in fields(index):
        column = getattr(index, field.name)
        data = "\0".join(column).encode() if column.dtype == object else column.tobytes()
        total.update(f"{field.name} {column.shape} {len(data)}\n".encode() + data)
    return total.hexdigest()


def counts(index: Index) -> dict[str, int]:
    """Count the samples of each split."""
    splits, numbers = np.unique(index.split.astype(str), return_counts=True)
    return dict(zip(splits.tolist(), numbers.tolist(), strict=True))


def write(folder: Path, index: Index) -> None:
    """Write the table."""
    pq.write_table(_to_table(index), folder / TABLE, compression="zstd")


def read(folder: Path, manifest: Manifest) -> Index:
    """Read the table and check it against `dataset.json`; the shards themselves are not opened.

    Raises:
        DataError: it is missing, unreadable, or not what `dataset.json` says.
    """
    path = folder / TABLE
    index = _from_table(_read_table(path, manifest), path)
    if digest(index) != manifest.rows_sha256:
        raise broken("the rows are not those that were written", path)
    _check(index, manifest, path)
    return index


def _to_table(index: Index) -> pa.Table:
    arrays = {name: getattr(index, name) for name in Row._fields}
    width = index.class_pixels.shape[1]
    arrays["class_pixels"] = pa.FixedSizeListArray.from_arrays(pa.array(index.class_pixels.ravel()), width)
    for name in HASHES:
        arrays[name] = pa.array([row.tobytes() for row in arrays[name]], pa.binary(32))
    return pa.table(arrays, schema=_schema(width))


def _schema(width: int) -> pa.Schema:
    types = dict.fromkeys(Row._fields, pa.int64()) | dict.fromkeys(_TEXTS, pa.string())
    types |= {"class_pixels": pa.list_(pa.int64(), width)} | dict.fromkeys(HASHES, pa.binary(32))
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])


def _read_table(path: Path, manifest: Manifest) -> pa.Table:
    """Read the table once its head says what was expected: a crafted file must not fill the memory first."""
    try:
        with pq.ParquetFile(path) as file:
            found, wanted = file.metadata.num_rows, sum(manifest.samples.values())
            if found != wanted:
                raise broken(f"{found} rows where {MANIFEST} counts {wanted}", path)
            if not file.schema_arrow.equals(_schema(manifest.card.num_classes + 1)):
                raise broken("the columns are not those of this version", path)
            table = file.read(use_threads=False)
        table.validate(full=True)  # a flipped bit may leave text that is no UTF-8
        return table
    except (OSError, pa.ArrowException) as error:
        raise broken(f"cannot be read: {str(error).splitlines()[0]:.120}", path) from None


def _from_table(table: pa.Table, path: Path) -> Index:
    if any(column.null_count for column in table.columns):
        raise broken("a value is missing", path)
    plain = [name for name in Row._fields if name not in ("class_pixels", *HASHES)]
    columns: dict[str, Any] = {name: table[name].to_numpy() for name in plain}
    columns |= {name: _as_bytes(table[name].to_pylist()) for name in HASHES}
    pixels = table["class_pixels"].combine_chunks().flatten().to_numpy()
    return Index(**columns, class_pixels=pixels.reshape(len(table), -1))


def _check(index: Index, manifest: Manifest, path: Path) -> None:
    """Look for what the hash cannot tell, for whoever wrote the rows also wrote their hash."""
    if counts(index) != manifest.samples:
        raise broken(f"the splits are not those of {MANIFEST}", path)
    if len(set(index.key)) < len(index):
        names, times = np.unique(index.key.astype(str), return_counts=True)
        raise broken(f"key '{names[times.argmax()]}' occurs {times.max()} times", path)
    for row in np.flatnonzero(~_sane(index, manifest))[:1]:
        raise broken(f"the row of '{index.key[row]!s:.90}' cannot be", path)


def _sane(index: Index, manifest: Manifest) -> NDArray[np.bool_]:
    """Tell which rows can be; each bound comes before the sum or product it keeps from overflowing."""
    sizes = {name: file.size for name, file in manifest.shards.items()}
    room = np.array([sizes.get(name, -1) for name in index.shard], np.int64)
    most = {"image_size": MAX_FILE_BYTES, "mask_size": MAX_FILE_BYTES, "height": MAX_PIXELS, "width": MAX_PIXELS}
    sane = (index.image_offset > 0) & (index.image_offset < index.mask_offset) & (index.mask_offset <= room)
    for name, limit in most.items():
        sane &= (getattr(index, name) > 0) & (getattr(index, name) <= limit)
    sane &= index.mask_offset - index.image_offset == -(-index.image_size // BLOCK) * BLOCK + BLOCK  # side by side
    sane &= index.mask_offset + index.mask_size <= room
    sane &= index.height * index.width <= MAX_PIXELS
    sane &= (index.class_pixels >= 0).all(1) & (index.class_pixels <= MAX_PIXELS).all(1)
    sane &= index.class_pixels.sum(1) == index.height * index.width
    sane &= (index.unknown_pixels >= 0) & (index.unknown_pixels <= index.class_pixels[:, -1])
    keys = [bool(re.fullmatch(KEY, key)) for key in index.key]
    return sane & np.array(keys) & np.isin(index.image_ext.astype(str), EXTENSIONS)

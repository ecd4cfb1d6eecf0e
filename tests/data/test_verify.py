"""Damage: whatever happens to a folder of shards, `verify` names shard and reason, and no reader passes over it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayseg.data import index, manifest, open_shards, shards
from rayseg.data.index import Index
from rayseg.errors import DataError
from rayseg.schema import to_dict

SHARD = "train-000001.tar"


def rows_of(folder: Path, shard: str = SHARD) -> Index:
    table = index.read(folder, manifest.read(folder))
    return table.where(table.shard == shard)


def cut(at: Callable[[Index], int]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        place, path = at(rows_of(folder)), folder / SHARD
        path.write_bytes(path.read_bytes()[:place])

    return damage


def flip(at: Callable[[Index], int]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        place, path = at(rows_of(folder)), folder / SHARD
        data = bytearray(path.read_bytes())
        data[place] ^= 4
        path.write_bytes(data)

    return damage


def replace(make: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / SHARD).write_bytes(make(folder))

    return damage


def tar_of(*members: tuple[str, bytes, dict[str, Any]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in changes.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def padded(data: bytes, folder: Path) -> bytes:
    """Give it the size of the shard it replaces, so that the size does not tell."""
    return data.ljust((folder / SHARD).stat().st_size, b"\0")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def add(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def sparse_bomb() -> bytes:
    """512 MiB of nothing in ten kilobytes, by a PAX record."""
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(2**29), "GNU.sparse.map": "0,0"}
    return tar_of(("a.png", b"", {"pax_headers": headers}), form=tarfile.PAX_FORMAT)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut between samples": (cut(lambda rows: rows.image_offset[5] - 512), "truncated at .*: 39 samples from 'a261'"),
    "cut between image and mask": (cut(lambda rows: rows.mask_offset[5] - 512), "truncated at .*from 'a261'"),
    "cut in a header": (cut(lambda rows: rows.mask_offset[5] - 300), "truncated at .*from 'a261'"),
    "cut in data": (cut(lambda rows: rows.image_offset[5] + 9), "truncated at .*from 'a261'"),
    "cut in the end": (cut(lambda rows: rows.mask_offset[-1] + 600), "truncated at .*: its end is lost"),
    "empty": (replace(lambda folder: b""), "the shard is empty"),
    "html": (replace(lambda folder: b"<!DOCTYPE html>" * 99), "no tar: it starts with b'<!DOCTYPE"),
    "lfs pointer": (replace(lambda folder: b"version https://git-lfs.github.com/spec/v1\n"), "no tar"),
    "bit in a name": (flip(lambda rows: rows.image_offset[3] - 512), "the header of a259.png is damaged"),
    "bit in a size": (flip(lambda rows: rows.mask_offset[3] - 512 + 130), "the header of a259.mask.png is damaged"),
    "bit in an image": (flip(lambda rows: rows.image_offset[3] + 80), "the bytes of sample 'a259' changed"),
    "bit in a mask": (flip(lambda rows: rows.mask_offset[3] + 50), "the bytes of sample 'a259' changed"),
    "bit in padding": (flip(lambda rows: rows.mask_offset[3] + rows.mask_size[3]), "bytes between the samples changed"),
    "bit in the end": (flip(lambda rows: -1), "something follows the last sample"),
    "two tars in one": (replace(lambda folder: (folder / SHARD).read_bytes() * 2), "bytes too many"),
    "another shard": (replace(lambda f: padded((f / "val-000000.tar").read_bytes(), f)), "the header of a256.png"),
    "a key doubled": (replace(lambda f: (f / SHARD).read_bytes().replace(b"a257", b"a256")), "the header of a257.png"),
    "gzip": (replace(lambda folder: gzip.compress((folder / SHARD).read_bytes())), "no tar"),
    "gzip bomb": (replace(lambda folder: padded(gzip.compress(bytes(2**24)), folder)), "the header of a256.png"),
    "sparse bomb": (replace(lambda folder: padded(sparse_bomb(), folder)), "the header of a256.png"),
    "link": (
        replace(lambda f: padded(tar_of(("a256.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})), f)),
        "the header of a256.png",
    ),
    "path": (replace(lambda f: padded(tar_of(("../../a256.png", b"x", {})), f)), "the header of a256.png"),
    "pickle": (replace(lambda f: padded(tar_of(("a256.pkl", b"x", {})), f)), "the header of a256.png"),
    "shard missing": (remove(SHARD), "cannot read the shard: No such file"),
    "shard unlisted": (add("train-000002.tar", b"x"), "does not list"),
    "table missing": (remove("index.parquet"), "index.parquet"),
    "table empty": (add("index.parquet", b""), "index.parquet.*cannot be read|cannot be read.*index.parquet"),
    "manifest missing": (remove("dataset.json"), "no dataset.json .*rayseg shard CARD --root RAW --out"),
    "manifest empty": (add("dataset.json", b""), "cannot be read.*dataset.json"),
    "manifest a list": (add("dataset.json", b"[]"), "cannot be read.*dataset.json"),
    "manifest nested": (add("dataset.json", b"[" * 10**5), "cannot be read.*dataset.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(folder: Path, name: str) -> None:
    damage, says = DAMAGE[name]
    damage(folder)
    start = time.process_time()
    with pytest.raises(DataError, match=says) as caught:
        shards.verify(folder)
    assert time.process_time() - start < 2
    assert str(folder) in caught.value.where
    assert len(str(caught.value)) - len(str(folder)) < 300


def test_a_good_folder_passes(pristine: Path) -> None:
    seen: list[tuple[int, int]] = []
    shards.verify(pristine, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "name", [name for name in DAMAGE if name.startswith(("cut", "empty", "html", "two", "shard m"))]
)
def test_a_wrong_size_is_seen_on_opening(folder: Path, name: str) -> None:
    DAMAGE[name][0](folder)
    with pytest.raises(DataError, match=SHARD):
        open_shards(folder, "train")
    assert len(open_shards(folder, "val")) == 20


@pytest.mark.parametrize("name", ["bit in an image", "bit in a mask", "another shard", "sparse bomb", "link", "pickle"])
def test_changed_bytes_are_seen_on_reading(folder: Path, name: str) -> None:
    DAMAGE[name][0](folder)
    opened = open_shards(folder, "train")
    assert opened.read(0).key == "a000"
    with pytest.raises(DataError, match=rf"bytes changed .*{SHARD}: a"):
        list(opened)


def forge(folder: Path, **columns: Any) -> None:
    """Change rows and make their hash right again, as one who wants to deceive would."""
    old = manifest.read(folder)
    table = index.read(folder, old)
    forged = Index(**{name: columns.get(name, getattr(table, name)) for name in index.Row._fields})
    index.write(folder, forged)
    counted = old.model_copy(update={"rows_sha256": index.digest(forged), "samples": index.counts(forged)})
    manifest.write(folder, counted)


def with_value(folder: Path, column: str, row: int, value: Any) -> dict[str, Any]:
    changed = getattr(index.read(folder, manifest.read(folder)), column).copy()
    changed[row] = value
    return {column: changed}


def test_rows_changed_without_their_hash(folder: Path) -> None:
    whole = manifest.read(folder)
    forge(folder, **with_value(folder, "height", 7, 11))
    manifest.write(folder, whole)
    with pytest.raises(DataError, match="rows are not those that were written"):
        open_shards(folder, "train")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("image_size", -1, "row of 'a007' cannot be"),
        ("image_offset", 2**63 - 1, "row of 'a007' cannot be"),
        ("mask_offset", 90_000, "row of 'a007' cannot be"),
        ("mask_offset", 2**63 - 1, "row of 'a007' cannot be"),
        ("mask_size", 0, "row of 'a007' cannot be"),
        ("mask_size", 2**40, "row of 'a007' cannot be"),
        ("height", 2**40, "row of 'a007' cannot be"),
        ("class_pixels", -1, "row of 'a007' cannot be"),
        ("class_pixels", 5, "row of 'a007' cannot be"),
        ("shard", "../../etc-000000.tar", "row of 'a007' cannot be"),
        ("key", "../x", "row of '../x' cannot be"),
        ("image_ext", "pkl", "row of 'a007' cannot be"),
        ("key", "a008", "key 'a008' occurs 2 times"),
        ("key", "b001", "key 'b001' occurs 2 times"),
    ],
)
def test_rows_that_cannot_be(folder: Path, column: str, value: Any, says: str) -> None:
    forge(folder, **with_value(folder, column, 7, value))
    with pytest.raises(DataError, match=says):
        open_shards(folder, "train")


@pytest.mark.parametrize("last", ["image_offset", "mask_offset"])
def test_offsets_whose_sums_overflow(folder: Path, last: str) -> None:
    table = index.read(folder, manifest.read(folder))
    shift = (2**63 - 1 - getattr(table, last)) * (table.key == "a007")
    forge(folder, **{name: getattr(table, name) + shift for name in ("image_offset", "mask_offset")})
    with pytest.raises(DataError, match="row of 'a007' cannot be"):
        open_shards(folder, "train")


def test_offsets_that_point_elsewhere(folder: Path) -> None:
    table = index.read(folder, manifest.read(folder))
    shifted = {name: getattr(table, name) + (table.key == "a007") for name in ("image_offset", "mask_offset")}
    forge(folder, **shifted)
    with pytest.raises(DataError, match=r"the index has a007.png at byte"):
        shards.verify(folder)
    with pytest.raises(DataError, match=r"bytes changed .*a007"):
        open_shards(folder, "train").read(7)


def test_an_image_that_is_larger_than_its_row_says(folder: Path) -> None:
    table = index.read(folder, manifest.read(folder))
    pixels = table.class_pixels.copy()
    pixels[7] = [6, 0, 0, 0, 0, 0]
    forge(folder, **with_value(folder, "height", 7, 2), **with_value(folder, "width", 7, 3), class_pixels=pixels)
    with pytest.raises(DataError, match="not of the index's size 2x3"):
        shards.verify(folder)
    with pytest.raises(DataError, match="not of the index's size 2x3"):
        open_shards(folder, "train").read(7)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "format version 2"),
        ({"format": "other"}, "format"),
        ({"samples": {"train": 299, "val": 20}}, "320 rows where dataset.json counts 319"),
        ({"samples": {"train": 299, "val": 21}}, "splits are not those of dataset.json"),
        ({"samples": {}}, "samples"),
        ({"shards": {"../x-000000.tar": {"size": 1, "sha256": "0" * 64}}}, "shards"),
        ({"shards": {}}, "shards"),
        ({"rows_sha256": "xyz"}, "rows_sha256"),
        ({"card": {}}, "card"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_manifest_that_cannot_be(folder: Path, changes: dict[str, Any], says: str) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(to_dict(manifest.read(folder)) | changes))
    for look in (lambda: open_shards(folder, "train"), lambda: shards.verify(folder)):
        with pytest.raises(DataError, match=says):
            look()


def test_a_table_of_other_columns(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"key": np.arange(320)}), folder / "index.parquet")
    with pytest.raises(DataError, match="columns are not those of this version"):
        open_shards(folder, "train")


def test_a_shard_whose_hash_alone_is_wrong(folder: Path) -> None:
    whole = manifest.read(folder)
    file = whole.shards[SHARD].model_copy(update={"sha256": "0" * 64})
    manifest.write(folder, whole.model_copy(update={"shards": whole.shards | {SHARD: file}}))
    with pytest.raises(DataError, match=f"bytes between the samples changed .*{SHARD}"):
        shards.verify(folder)

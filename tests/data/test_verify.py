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
from tiny_sets import make_card

from rayseg.data import index, manifest, open_shards, shards, verify
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


def members(folder: Path) -> list[tuple[str, bytes]]:
    """Read a shard's members by the standard library."""
    with tarfile.open(folder / SHARD, "r:") as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]


def whole_tar(found: list[tuple[str, bytes]]) -> bytes:
    return tar_of(*((name, data, {"mode": 0o444}) for name, data in found))


def rebuilt(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Callable[[Path], None]:
    """A good tar of other members: what a tool makes that "repairs" a shard."""
    return replace(lambda folder: whole_tar(change(members(folder))))


def interleave(found: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Two samples whose members alternate."""
    return [found[i] for i in (0, 3, 1, 4, 2, 5)] + found[6:]


def end_of_mask(rows: Index, row: int) -> int:
    return int(rows.mask_offset[row] + -(-rows.mask_size[row] // 512) * 512)


def grow(folder: Path) -> None:
    """A hole of 64 GiB behind the shard: nobody has the memory to read that."""
    with (folder / SHARD).open("r+b") as file:
        file.truncate(2**36)


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
    "bit in a description": (flip(lambda rows: end_of_mask(rows, 3) + 520), "the description of sample 'a259' changed"),
    "two tars in one": (replace(lambda f: (f / SHARD).read_bytes() * 2), r"a second tar begins at byte \d+"),
    "parts of two tars in one": (replace(lambda f: whole_tar(members(f)[:60]) * 2), "the tar ends before a276.png"),
    "a mask missing": (rebuilt(lambda found: found[:10] + found[11:]), "a259.mask.png is missing: 'a259.json' stands"),
    "an image missing": (rebuilt(lambda found: found[:9] + found[10:]), "a259.png is missing: 'a259.mask.png' stands"),
    "a sample missing": (rebuilt(lambda found: found[:9] + found[12:]), "a259.png is missing: 'a260.png' stands"),
    "the last sample missing": (rebuilt(lambda found: found[:-3]), "the tar ends before a299.png"),
    "interleaved": (rebuilt(interleave), "interleaved: 'a257.png' stands before a256.mask.png"),
    "a key twice": (rebuilt(lambda found: found[:6] + found[3:]), "duplicate: 'a257.png' stands a second time"),
    "a key twice, not side by side": (
        rebuilt(lambda found: found[:9] + found[3:6] + found[9:]),
        "duplicate: 'a257.png'",
    ),
    "another shard": (replace(lambda f: padded((f / "val-000000.tar").read_bytes(), f)), "a256.png is missing: 'b000"),
    "a key doubled": (replace(lambda f: (f / SHARD).read_bytes().replace(b"a257", b"a256")), "the header of a257.png"),
    "gzip": (replace(lambda folder: gzip.compress((folder / SHARD).read_bytes())), "no tar"),
    "gzip bomb": (replace(lambda folder: padded(gzip.compress(bytes(2**24)), folder)), "no tar"),
    "sparse bomb": (
        replace(lambda folder: padded(sparse_bomb(), folder)),
        "a PAX record .it may state any size. stands",
    ),
    "link": (
        replace(lambda f: padded(tar_of(("a256.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})), f)),
        "a link stands where a256.png should be",
    ),
    "path": (replace(lambda f: padded(tar_of(("../../a256.png", b"x", {})), f)), "missing: '../../a256.png' stands"),
    "pickle": (replace(lambda f: padded(tar_of(("a256.pkl", b"x", {})), f)), "missing: 'a256.pkl' stands"),
    "escape codes": (replace(lambda f: padded(tar_of(("\x1b[31m", b"x", {})), f)), r"missing: '\\x1b\[31m' stands"),
    "a size it does not have": (replace(lambda f: padded(tar_of(("a256.png", b"x", {})), f)), "it states 1 bytes"),
    "sparse on the disk": (grow, r"a second tar|something follows"),
    "shard missing": (remove(SHARD), "cannot read the file: No such file"),
    "shard unlisted": (add("train-000002.tar", b"x"), "does not list"),
    "table missing": (remove("index.parquet"), "index.parquet"),
    "table empty": (add("index.parquet", b""), "index.parquet.*cannot be read|cannot be read.*index.parquet"),
    "page missing": (remove("audit.html"), "cannot read the file: No such file .*audit.html"),
    "page changed": (add("audit.html", b"<script>"), "the audit page changed"),
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


def test_a_rebuilt_tar_of_the_same_members_is_the_same(folder: Path) -> None:
    """So what is found in those above is their change alone."""
    assert whole_tar(members(folder)) == (folder / SHARD).read_bytes()


def test_every_damaged_shard_is_named(folder: Path) -> None:
    (folder / "val-000000.tar").write_bytes(b"")
    DAMAGE["bit in a mask"][0](folder)
    DAMAGE["page changed"][0](folder)
    for workers in (1, 3):
        said = [(Path(fault.where).name, fault.what) for fault in verify.faults(folder, workers=workers)]
        assert said == [
            ("audit.html", "the audit page changed"),
            (SHARD, "the bytes of sample 'a259' changed"),
            ("val-000000.tar", "the shard is empty"),
        ]


IN_SHARDS = [name for name in DAMAGE if not name.startswith(("table", "manifest", "page", "shard u"))]


UNSEEN = {"bit in a name", "bit in a size", "bit in a description", "bit in padding", "bit in the end", "a key doubled"}
"""What the reader does not look at: it takes names and places from the index."""


@pytest.fixture(scope="module")
def samples(pristine: Path) -> list[tuple[str, bytes, bytes]]:
    return read_all(pristine)


def read_all(folder: Path) -> list[tuple[str, bytes, bytes]]:
    """Read every sample of the damaged shard."""
    opened = open_shards(folder, "train")
    samples = [opened.read(int(row)) for row in np.flatnonzero(opened.index.shard == SHARD)]
    assert len(samples) == 44
    return [(sample.key, sample.image.tobytes(), sample.mask.tobytes()) for sample in samples]


@pytest.mark.parametrize("name", [name for name in IN_SHARDS if name not in UNSEEN])
def test_no_damage_is_read_over(folder: Path, name: str) -> None:
    DAMAGE[name][0](folder)
    with pytest.raises(DataError) as caught:
        read_all(folder)
    assert SHARD in caught.value.where


@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_what_the_reader_does_not_look_at_changes_no_sample(
    folder: Path, samples: list[tuple[str, bytes, bytes]], name: str
) -> None:
    DAMAGE[name][0](folder)
    assert read_all(folder) == samples


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
        ({"version": 1}, "format version 1 .*this rayseg reads 2: remove the folder"),
        ({"format": "other"}, "format"),
        ({"samples": {"train": 299, "val": 20}}, "320 rows where dataset.json counts 319"),
        ({"samples": {"train": 299, "val": 21}}, "splits are not those of dataset.json"),
        ({"samples": {}}, "samples"),
        ({"shards": {"../x-000000.tar": {"size": 1, "sha256": "0" * 64}}}, "shards"),
        ({"shards": {}}, "shards"),
        ({"rows_sha256": "xyz"}, "rows_sha256"),
        ({"card": {}}, "card"),
        ({"card": to_dict(make_card(title="Other"))}, "the card is not the one that was written"),
        ({"card_sha256": "0" * 64}, "the card is not the one that was written"),
        ({"image": "bmp"}, "image"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_manifest_that_cannot_be(folder: Path, changes: dict[str, Any], says: str) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(to_dict(manifest.read(folder)) | changes))
    for look in (lambda: open_shards(folder, "train"), lambda: shards.verify(folder)):
        with pytest.raises(DataError, match=says):
            look()


def test_shards_of_another_version_are_known(folder: Path) -> None:
    """And no others: what is only damaged is nobody's to draw again."""
    path, good = folder / "dataset.json", to_dict(manifest.read(folder))
    for changes, outdated in (({}, False), ({"version": 1}, True), ({"version": 3}, True), ({"format": "x"}, False)):
        path.write_text(json.dumps(good | changes))
        assert manifest.is_outdated(folder) == outdated
    for text in ("", "[]", '{"version": 1}', "[" * 10**5):
        path.write_text(text)
        assert not manifest.is_outdated(folder)
    assert not manifest.is_outdated(folder / "none")


def test_any_bit_of_the_table_is_a_fault_or_changes_no_row(folder: Path) -> None:
    """And nothing but a DataError: a flipped bit also makes text that is no UTF-8."""
    path, whole, rng = folder / "index.parquet", manifest.read(folder), np.random.default_rng(0)
    good, rows = path.read_bytes(), index.read(folder, manifest.read(folder))
    places = [*rng.integers(0, len(good), 600), *range(good.index(b"train"), good.index(b"train") + 40)]
    for place in places:
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = index.read(folder, whole)
        except DataError:
            continue
        assert index.digest(found) == index.digest(rows)


def test_text_in_the_table_that_is_no_utf8(folder: Path) -> None:
    path = folder / "index.parquet"
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table, path, compression="none")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a257", b"a\xff57"))
    with pytest.raises(DataError, match=r"cannot be read: .*UTF8.*index.parquet"):
        open_shards(folder, "train")


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

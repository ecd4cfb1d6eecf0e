"""Writing shards: the same bytes from any number of workers, read by any WebDataset tool, all of it or nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_sets import CLASSES, IGNORED, make_card, put_pair

from rayseg.data import open_shards, shards, summary
from rayseg.errors import DataError, UsageError

DRAWN = {
    "generated": {"seed": 3, "height": 32, "width": 48},
    "splits": {"train": {"count": 3}, "val": {"count": 2}},
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_bytes_do_not_depend_on_the_workers(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 2)
    for workers in (1, 3):
        shards.write(make_card(), files, tmp_path / str(workers), workers=workers)
    one, three = contents(tmp_path / "1"), contents(tmp_path / "3")
    assert list(one) == [
        "audit.html",
        "dataset.json",
        "index.parquet",
        *(f"train-00000{i}.tar" for i in range(3)),
        *(f"val-00000{i}.tar" for i in range(2)),
    ]
    assert one == three


def test_a_shard_is_cut_by_its_bytes_too(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    shards.write(make_card(), files, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("train-*.tar"))) == 6


def test_webdataset_reads_them(files: Path, tmp_path: Path) -> None:
    import webdataset

    shards.write(make_card(), files, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the collector
        found = list(webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False))
        gc.collect()
    assert [sample["__key__"] for sample in found] == [f"a{i:03d}" for i in range(6)]
    for sample in found:
        key = sample["__key__"]
        image, mask = (files / f"train{kind}/{key}.png" for kind in ("", "annot"))
        assert {name for name in sample if not name.startswith("__")} == {"png", "mask.png", "json"}
        assert sample["png"] == image.read_bytes()
        assert sample["mask.png"] == mask.read_bytes()
        labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        assert json.loads(sample["json"]) == {
            "key": key,
            "split": "train",
            "height": 12,
            "width": 16,
            "class_pixels": [int((labels == label).sum()) for label in range(CLASSES)],
            "ignored_pixels": int((labels == IGNORED).sum()),
            "unknown_pixels": 0,
            "sha256": hashlib.sha256(image.read_bytes() + mask.read_bytes()).hexdigest(),
        }


def test_members_are_plain_files_of_nobody(files: Path, tmp_path: Path) -> None:
    shards.write(make_card(), files, tmp_path / "out")
    with tarfile.open(tmp_path / "out/val-000000.tar", "r:") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"b{i:03d}.{kind}" for i in range(3) for kind in ("png", "mask.png", "json")
    ]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname, m.type) for m in members} == {
        (0, 0, 0, 0o444, "", "", tarfile.REGTYPE)
    }
    assert (tmp_path / "out/val-000000.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_what_is_written_is_read_back(files: Path, tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", cv2.imread(str(files / "train/a002.png")))[1].tobytes()
    (files / "train/a002.png").write_bytes(jpeg)
    seen: list[tuple[int, int]] = []
    report = shards.write(make_card(), files, tmp_path / "out", workers=2, progress=lambda *at: seen.append(at))
    assert seen == [(i, 9) for i in range(1, 10)]
    assert (report.samples, report.warnings, report.unchanged) == ({"train": 6, "val": 3}, (), False)
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    samples = list(open_shards(tmp_path / "out", "train"))
    assert [sample.key for sample in samples] == [f"a{i:03d}" for i in range(6)]
    for sample in samples:
        image = cv2.imread(str(files / f"train/{sample.key}.png"))[..., ::-1]
        mask = cv2.imread(str(files / f"trainannot/{sample.key}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.mask, mask)
    assert set(open_shards(tmp_path / "out", "train").index.image_ext) == {"png", "jpg"}


def test_a_drawn_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shards.write(make_card(ignore_index=11, **drawn_classes(), **DRAWN), None, tmp_path / name, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    train, val = (list(open_shards(tmp_path / "one", split)) for split in ("train", "val"))
    assert (len(train), len(val), train[0].image.shape, train[0].mask.shape) == (3, 2, (32, 48, 3), (32, 48))
    assert not np.array_equal(train[0].image, val[0].image)


def drawn_classes() -> dict[str, Any]:
    return {"classes": [{"name": f"class{i}", "color": [i, i, i]} for i in range(11)]}


def damage_pixels(files: Path) -> None:
    path = files / "train/a004.png"
    path.write_bytes(path.read_bytes()[:-30])


def wrong_label(files: Path) -> None:
    cv2.imwrite(str(files / "trainannot/a004.png"), np.full((12, 16), 77, np.uint8))


def wrong_size(files: Path) -> None:
    cv2.imwrite(str(files / "trainannot/a004.png"), np.zeros((16, 12), np.uint8))


def all_ignored(files: Path) -> None:
    for path in (files / "valannot").iterdir():
        cv2.imwrite(str(path), np.full((10, 14), IGNORED, np.uint8))


FAULTS: list[tuple[Any, str]] = [
    (damage_pixels, "damaged.*train/a004.png"),
    (wrong_label, "label 77 .*trainannot/a004.png"),
    (wrong_size, "mask is 16x12, its image 12x16 .*trainannot/a004.png"),
]


@pytest.mark.parametrize(("spoil", "says"), FAULTS)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_fault_leaves_nothing_behind(files: Path, tmp_path: Path, spoil: Any, says: str, workers: int) -> None:
    spoil(files)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=says):
        shards.write(make_card(), files, tmp_path / "new/deep/out", workers=workers)
    assert sorted(tmp_path.iterdir()) == before


def test_a_split_of_nothing_but_ignored_pixels_is_refused(files: Path, tmp_path: Path) -> None:
    all_ignored(files)
    with pytest.raises(DataError, match="every pixel of split val is ignored"):
        shards.write(make_card(), files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_again_changes_nothing(files: Path, tmp_path: Path) -> None:
    first = shards.write(make_card(), files, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    seen: list[tuple[int, int]] = []
    again = shards.write(make_card(), files, tmp_path / "out", workers=3, progress=lambda *at: seen.append(at))
    assert again == first.model_copy(update={"unchanged": True})
    assert seen == [(i, 9) for i in range(1, 10)], "to compare a large set takes minutes, too"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps


def test_another_content_is_refused(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards.write(make_card(), files, out)
    before = contents(out)
    with pytest.raises(DataError, match="holds something else"):
        shards.write(make_card(title="Other"), files, out)
    put_pair(files, "train", "a003.png", 99)
    with pytest.raises(DataError, match="holds something else"):
        shards.write(make_card(), files, out)
    put_pair(files, "train", "c.png", 100)
    with pytest.raises(DataError, match="holds something else"):
        shards.write(make_card(), files, out)
    assert contents(out) == before


def test_out_is_a_file_a_strangers_folder_or_damaged(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        shards.write(make_card(), files, out)
    with pytest.raises(DataError, match="cannot write"):
        shards.write(make_card(), files, out / "below")
    assert out.read_text() == "mine"
    out.unlink()
    shards.write(make_card(), files, out)
    (out / "val-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="shard of 0 bytes"):
        shards.write(make_card(), files, out)
    (out / "dataset.json").unlink()
    with pytest.raises(DataError, match="holds something else"):
        shards.write(make_card(), files, out)


@pytest.mark.parametrize("out", ["s3://bucket/x", Path("s3://bucket/x"), "https://host/x", "pipe:/touch pwned"])
def test_out_is_a_url(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str | Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="is no folder here"):
        shards.write(make_card(), files, out)
    assert sorted(tmp_path.iterdir()) == before


def test_out_is_an_empty_mount_point(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder can be renamed to it: to find that out when all the work is done would be late."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "out")
    with pytest.raises(DataError, match=r"mount point .*out.*: name a folder in it"):
        shards.write(make_card(), files, tmp_path / "out", progress=lambda done, total: pytest.fail("work was done"))
    shards.write(make_card(), files, tmp_path / "out/shards")


def test_an_empty_folder_is_taken(files: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert not shards.write(make_card(), files, tmp_path / "out").unchanged
    shards.verify(tmp_path / "out")


def test_what_is_odd_is_said(files: Path, tmp_path: Path) -> None:
    for path in (files / "valannot").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[mask == 2] = 0
        cv2.imwrite(str(path), mask)
    for folder in ("train", "trainannot"):
        (files / folder / "z.png").write_bytes((files / folder / "a001.png").read_bytes())
    split = {"images": "train/*.png", "masks": "trainannot/*.png", "expected": 367}
    splits = {"train": split, "val": {"images": "val/*.png", "masks": "valannot/*.png", "expected": 3}}
    report = shards.write(make_card(splits=splits), files, tmp_path / "out")
    assert report.warnings == (
        "train: 7 samples where the card expects 367",
        "train: 1 picture occurs in 2 samples: train/a001 and train/z",
        "val: no pixel of class 'class2'",
    )


def test_workers_out_of_range(files: Path, tmp_path: Path) -> None:
    for workers in (0, -1, 10**9):
        with pytest.raises(UsageError, match="workers"):
            shards.write(make_card(), files, tmp_path / "out", workers=workers)


def test_the_summary_equals_a_count_of_the_pixels(pristine: Path) -> None:
    found = summary.summary(pristine)
    assert found.title == "Tiny"
    assert list(found.splits) == ["train", "val"]
    for name, split in found.splits.items():
        masks = np.concatenate([sample.mask.ravel() for sample in open_shards(pristine, name)])
        shares = [float((masks == label).mean()) for label in range(CLASSES)]
        assert list(split.class_shares.values()) == pytest.approx(shares, abs=1e-12)
        assert split.ignore_share == pytest.approx(float((masks == IGNORED).mean()), abs=1e-12)
    assert (found.splits["train"].samples, found.splits["train"].shards, found.splits["train"].sizes) == (
        300,
        2,
        {"12x16": 300},
    )

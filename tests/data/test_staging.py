"""Staging: killed at any moment, `rayseg shard` leaves nothing or all of it, and goes on to the same bytes."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import killed
import numpy as np
import pytest
from tiny_sets import make_card, make_files, put_pair

from rayseg.data import shards, staging
from rayseg.errors import DataError

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["killed", "pytest"])
"""The processes that die come from one that has imported everything: a tenth of a second each."""


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies here is a process and not the machine: leave out the wait for the disk, half of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def run(target: Callable[..., None], *arguments: object) -> int | None:
    process = FORKED.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.fixture
def reference(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The bytes of a command that nobody disturbed, in shards of two samples: three of train and two of val."""
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 2)
    shards.write(make_card(), files, tmp_path / "undisturbed/out")
    return contents(tmp_path / "undisturbed/out")


@pytest.mark.parametrize("number", [1, 5, 9])
def test_killed_after_any_sample_it_goes_on(
    files: Path, tmp_path: Path, reference: dict[str, bytes], number: int
) -> None:
    out, seen = tmp_path / "out", list[tuple[int, int]]()
    assert run(killed.after_sample, files, out, number) == -9
    assert not out.exists()
    finished = 2 * ((number - 1) // 2) if number < 9 else 8  # train has six: the shards are 2+2+2 and 2+1
    assert len(staging.left(out)) == (finished > 0)
    report = shards.write(make_card(), files, out, progress=lambda *at: seen.append(at))
    assert report.adopted == finished
    assert seen == [(i, 9 - finished) for i in range(1, 10 - finished)]
    assert contents(out) == reference
    assert not hidden(tmp_path)


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_change_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """One command after another dies, each some steps further than the last, until one comes to its end."""
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 2)
    files = make_files(tmp_path / "raw", 3, 1)
    shards.write(make_card(), files, tmp_path / "undisturbed")
    reference = contents(tmp_path / "undisturbed")
    for number in range(2, 200, stride):
        out = tmp_path / f"{number}/out"
        code = run(killed.before_event, files, out, number)
        if out.exists():
            assert contents(out) == reference
        if code == 0:
            break
        assert code == -9
        shards.write(make_card(), files, out)
        assert contents(out) == reference
        assert not hidden(out.parent)
    assert 40 < number < 199


def test_all_is_on_the_disk_before_it_has_its_name(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename may reach the disk before what was renamed: a power cut would leave a name for nothing."""
    out, on_disk, named = tmp_path / "out", set[int](), list[set[int]]()

    def watch(descriptor: int) -> None:
        on_disk.add(os.fstat(descriptor).st_ino)
        if out.exists():
            named.append(set(on_disk))

    monkeypatch.setattr(os, "fsync", watch)
    shards.write(make_card(), files, out)
    assert {path.stat().st_ino for path in [*out.iterdir(), out]} <= named[0]
    assert tmp_path.stat().st_ino in named[-1], "the name itself"


def test_killed_again_and_again(files: Path, tmp_path: Path, reference: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    for finished in (1, 2, 3, 0):  # each gets a shard further; the last has but three samples to write
        assert run(killed.after_sample, files, out, 4) == (-9 if finished else 0)
        assert sum(map(staging.waiting, staging.left(out))) == finished
    assert contents(out) == reference


def interrupted(files: Path, out: Path, at: int = 5) -> Path:
    """Write until Ctrl-C at a sample; give the staging folder."""

    def interrupt(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write(make_card(), files, out, workers=2, progress=interrupt)
    return staging.left(out)[0]


def test_an_interrupt_keeps_what_is_finished_and_no_more(
    files: Path, tmp_path: Path, reference: dict[str, bytes]
) -> None:
    stage = interrupted(files, tmp_path / "out")
    assert sorted(path.name for path in stage.rglob("*") if path.is_file()) == sorted(
        ["lock", "train-000000.tar", "train-000000.tar.json", "train-000001.tar", "train-000001.tar.json"]
    )


def test_an_interrupt_before_the_first_shard_leaves_nothing(files: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        shards.write(make_card(), files, tmp_path / "new/out", workers=2, progress=_interrupt)
    assert sorted(tmp_path.iterdir()) == before


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


SPOILS: dict[str, Callable[[Path], object]] = {
    "a bit of a shard": lambda stage: flip(stage / "shards/train-000001.tar", 700),
    "a bit of a note": lambda stage: flip(stage / "done/train-000001.tar.json", 300),
    "a note cut": lambda stage: os.truncate(stage / "done/train-000001.tar.json", 200),
    "a note empty": lambda stage: os.truncate(stage / "done/train-000001.tar.json", 0),
    "a shard cut": lambda stage: os.truncate(stage / "shards/train-000001.tar", 1024),
    "a shard gone": lambda stage: (stage / "shards/train-000001.tar").unlink(),
}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", SPOILS)
def test_what_waits_damaged_is_written_again(
    files: Path, tmp_path: Path, reference: dict[str, bytes], name: str
) -> None:
    SPOILS[name](interrupted(files, tmp_path / "out"))
    assert shards.write(make_card(), files, tmp_path / "out").adopted == 2
    assert contents(tmp_path / "out") == reference


def test_strangers_in_the_staging_folder_are_not_published(
    files: Path, tmp_path: Path, reference: dict[str, bytes]
) -> None:
    stage = interrupted(files, tmp_path / "out")
    for name in ("shards/train-000009.tar", "shards/index.parquet", "done/train-000009.tar.json", "parts/x"):
        (stage / name).parent.mkdir(exist_ok=True)
        (stage / name).write_bytes(b"x")
    shards.write(make_card(), files, tmp_path / "out")
    assert contents(tmp_path / "out") == reference


def put_unpacked(path: Path, seed: int) -> None:
    """Write an image whose file has the same size whatever it shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])


def test_a_file_that_was_changed_meanwhile_is_read_again(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its size and its time are what they were."""
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 2)
    out, image = tmp_path / "out", files / "train/a002.png"
    put_unpacked(image, 77)
    before = image.stat()
    interrupted(files, out)
    put_unpacked(image, 78)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = image.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert shards.write(make_card(), files, out).adopted == 2
    shards.write(make_card(), files, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_file_that_is_there_now_moves_the_shards(files: Path, tmp_path: Path, reference: Any) -> None:
    interrupted(files, tmp_path / "out")
    put_pair(files, "train", "a0015.png", 78)
    assert shards.write(make_card(), files, tmp_path / "out").adopted == 2
    shards.write(make_card(), files, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh") != reference


@pytest.mark.parametrize("what", ["card", "root", "image"])
def test_other_inputs_do_not_mix(files: Path, tmp_path: Path, reference: dict[str, bytes], what: str) -> None:
    """They wait in a folder of their own, which goes when the name is taken."""
    stage, out = interrupted(files, tmp_path / "out"), tmp_path / "out"
    card = make_card(title="Other") if what == "card" else make_card()
    root = make_files(tmp_path / "other") if what == "root" else files
    report = shards.write(card, root, out, image="png" if what == "image" else "keep")
    assert report.adopted == 0
    assert not stage.exists()
    assert not hidden(tmp_path)
    assert (contents(out) == reference) == (what == "root")


def test_a_staging_folder_that_is_held_stays(files: Path, tmp_path: Path, reference: Any) -> None:
    stage, out = interrupted(files, tmp_path / "out"), tmp_path / "out"
    lock = staging._lock(stage)
    assert lock is not None
    shards.write(make_card(title="Other"), files, out)
    assert staging.waiting(stage) == 2
    os.close(lock)
    shards.write(make_card(title="Other"), files, out)
    assert not stage.exists()


@pytest.mark.parametrize("same", [True, False])
def test_two_writers_of_one_folder(files: Path, tmp_path: Path, same: bool) -> None:
    """Of the same inputs the second waits for the first; of others the first to end wins."""
    roots = [files, files if same else make_files(tmp_path / "other", 5, 2)]
    out, queue, barrier = tmp_path / "out", FORKED.Queue(), FORKED.Barrier(2)
    writers = [FORKED.Process(target=killed.tell, args=(root, out, 2, queue, barrier)) for root in roots]
    for writer in writers:
        writer.start()
    said = [queue.get(timeout=100) for _ in writers]
    for writer in writers:
        writer.join(60)
    if same:
        assert sorted(word[0] for word in said) == [False, True]
    else:
        assert sorted("holds something else" in str(word) for word in said) == [False, True]
    shards.verify(out)
    assert not hidden(tmp_path)


def test_the_second_says_that_it_waits_and_takes_over(
    files: Path, tmp_path: Path, reference: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stage, out, reports = interrupted(files, tmp_path / "out"), tmp_path / "out", list[shards.Report]()
    lock = staging._lock(stage)
    second = threading.Thread(target=lambda: reports.append(shards.write(make_card(), files, out)))
    with caplog.at_level(logging.WARNING):
        second.start()
        deadline = time.monotonic() + 60
        while "waiting for it to end" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not out.exists()
    os.close(lock or -1)  # the first is dead, and the system lets go of its lock
    second.join(60)
    assert [report.adopted for report in reports] == [4]
    assert contents(out) == reference


@pytest.mark.parametrize("limit", [4096, 11_000, 24_000])
def test_a_full_disk_leaves_nothing_half_there(
    files: Path, tmp_path: Path, reference: dict[str, bytes], limit: int
) -> None:
    """No shard has room, some have, all have but the audit page has not."""
    out, old = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(DataError, match="cannot write the shards: File too large"):
            shards.write(make_card(), files, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not out.exists()
    assert shards.write(make_card(), files, out).adopted == {4096: 0, 11_000: 9, 24_000: 9}[limit]
    assert contents(out) == reference


def test_a_rename_that_fails_loses_no_work(
    files: Path, tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the name is that of an empty folder it is not that another command was first."""
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()

    def busy(path: Path, name: Path) -> Path:
        if name == out:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(name))
        return rename(path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", busy)
        with pytest.raises(DataError, match="cannot write the shards: Device or resource busy"):
            shards.write(make_card(), files, out)
    assert shards.write(make_card(), files, out).adopted == 9
    assert contents(out) == reference


def test_a_stranger_that_takes_the_name_meanwhile_is_left_alone(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def take(done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").touch()

    with pytest.raises(DataError, match="it exists and holds something else"):
        shards.write(make_card(), files, out, progress=take)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_fault_keeps_the_shards_before_it(files: Path, tmp_path: Path, reference: dict[str, bytes]) -> None:
    good = (files / "val/b001.png").read_bytes()
    (files / "val/b001.png").write_bytes(good[:-30])
    with pytest.raises(DataError, match="damaged"):
        shards.write(make_card(), files, tmp_path / "out")
    (files / "val/b001.png").write_bytes(good)
    assert shards.write(make_card(), files, tmp_path / "out").adopted == 6
    assert contents(tmp_path / "out") == reference


def test_without_locks_it_goes_on_alone(files: Path, tmp_path: Path, reference: Any, monkeypatch: Any) -> None:
    """Some network file systems have none."""

    def no_lock(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(staging.fcntl, "flock", no_lock)
    shards.write(make_card(), files, tmp_path / "out")
    assert contents(tmp_path / "out") == reference

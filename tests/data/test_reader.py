"""Reading: the same global batches whatever the ranks and threads, faults at the consumer, threads that end."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import pickle
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sets import CLASSES, IGNORED

from rayseg.data import open_shards, plan, store
from rayseg.data.images import Pixels
from rayseg.data.loader import Batch, BatchLoader
from rayseg.data.reader import ShardSet
from rayseg.errors import DataError, UsageError

BATCH = 12


def crop(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Cut out a random part and add noise: a transform that shows every difference of its generator."""
    top, left = (int(value) for value in rng.integers(0, 5, 2))
    noise = rng.integers(0, 256, (8, 12, 3), np.uint8)
    part = np.s_[top : top + 8, left : left + 12]
    return image[part] ^ noise, mask[part]


def load(shards: ShardSet, batch: int = BATCH, *, seed: int = 0, **options: Any) -> BatchLoader:
    """One rank's loader, alone."""
    return BatchLoader(shards, plan.make(len(shards), batch, seed), **options)


def batches(shards: ShardSet, steps: range, *, world: int = 1, threads: int = 2, seed: int = 7) -> list[Batch]:
    """Make global batches by putting the ranks' parts together again."""
    parts = []
    for rank in range(world):
        order = plan.make(len(shards), BATCH, seed, rank=rank, world=world)
        with BatchLoader(shards, order, start_step=steps.start, threads=threads, transform=crop) as loader:
            parts.append(list(islice(loader, len(steps))))
    return [whole(of_step) for of_step in zip(*parts, strict=True)]


def whole(parts: tuple[Batch, ...]) -> Batch:
    assert len({part.step for part in parts}) == 1
    images, masks = np.stack([p.images for p in parts], 1), np.stack([p.masks for p in parts], 1)
    keys = tuple(key for of_place in zip(*(p.keys for p in parts), strict=True) for key in of_place)
    return Batch(images.reshape(-1, *images.shape[2:]), masks.reshape(-1, *masks.shape[2:]), keys, parts[0].step, {})


def digests(found: list[Batch]) -> list[tuple[int, tuple[str, ...], str]]:
    return [(b.step, b.keys, hashlib.sha256(b.images.tobytes() + b.masks.tobytes()).hexdigest()) for b in found]


@pytest.fixture(scope="module")
def train(pristine: Path) -> ShardSet:
    return open_shards(pristine, "train")


@pytest.fixture(scope="module")
def reference(train: ShardSet) -> list[tuple[int, tuple[str, ...], str]]:
    """Thirty global batches by one rank and one thread: one epoch and a part of the next."""
    return digests(batches(train, range(30), threads=1))


@pytest.mark.parametrize(("world", "threads"), [(1, 4), (2, 1), (2, 3), (3, 2), (4, 2)])
def test_batches_do_not_depend_on_ranks_or_threads(
    train: ShardSet, reference: list[tuple[int, tuple[str, ...], str]], world: int, threads: int
) -> None:
    assert digests(batches(train, range(30), world=world, threads=threads)) == reference


@pytest.mark.parametrize(("stop", "world"), [(1, 2), (17, 4), (25, 1), (29, 2)])
def test_a_resumed_run_reads_on_where_it_stopped(
    train: ShardSet, reference: list[tuple[int, tuple[str, ...], str]], stop: int, world: int
) -> None:
    assert digests(batches(train, range(stop, 30), world=world)) == reference[stop:]


def test_a_loader_with_an_end_makes_no_batch_beyond_it(train: ShardSet) -> None:
    made: list[int] = []

    def count(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        made.append(1)
        return image, mask

    for start, wanted in ((0, [0, 1, 2, 3, 4]), (4, [4]), (5, [])):
        made.clear()
        with load(train, 10, transform=count, start_step=start, end_step=5) as loader:
            assert [batch.step for batch in loader] == wanted
            assert len(made) == 10 * len(wanted)


def test_a_batch_holds_what_the_plan_says(train: ShardSet) -> None:
    with load(train, start_step=3) as loader:
        batch = next(loader)
        assert loader.step == 4
        places = plan.positions(loader.plan, 3)
    assert batch.step == 3
    assert (batch.images.shape, batch.masks.shape, batch.images.dtype) == ((12, 12, 16, 3), (12, 12, 16), np.uint8)
    for slot, place in enumerate(places):
        key, image, mask = train.read(place.sample)
        assert batch.keys[slot] == key
        np.testing.assert_array_equal(batch.images[slot], image)
        np.testing.assert_array_equal(batch.masks[slot], mask)


def test_each_epoch_draws_its_own_augmentation(train: ShardSet) -> None:
    """Two epochs of one seed: a sample of epoch e is changed by the generator of (seed, e, its key)."""
    seen = 0
    for batch in batches(train, range(24, 27)):
        for slot, place in enumerate(plan.positions(plan.make(300, BATCH, 7), batch.step)):
            key, image, mask = train.read(place.sample)
            words = struct.unpack("<2I", hashlib.blake2b(key.encode(), digest_size=8).digest())
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, place.epoch, *words])))
            np.testing.assert_array_equal(batch.images[slot], crop(place.sample, image, mask, rng)[0])
            seen |= 1 << place.epoch
    assert seen == 0b11


def test_seeds_differ(train: ShardSet) -> None:
    assert digests(batches(train, range(1), seed=1)) != digests(batches(train, range(1), seed=2))


def test_a_shard_set_tells_what_it_is(train: ShardSet) -> None:
    assert len(train) == 300
    assert (train.num_classes, train.ignore_index) == (CLASSES, IGNORED)
    assert train.class_names == tuple(f"class{i}" for i in range(CLASSES))
    assert train.read(-1).key == "a299"
    with pytest.raises(IndexError):
        train.read(300)
    assert set(train.index.split) == {"train"}


def test_threads_may_share_it(pristine: Path) -> None:
    shared = open_shards(pristine, "train")
    wanted = [sample.image.tobytes() for sample in shared]
    shared.close()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: shared.read(i % 300).image.tobytes(), range(1200)))
    assert found == wanted * 4
    assert len(shared._store._descriptors) == 2


def test_more_shards_than_it_keeps_open(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_OPEN", 1)
    shared = open_shards(pristine, "train")
    assert [sample.key for sample in shared] == [f"a{i:03d}" for i in range(300)]
    assert len(shared._store._descriptors) == 1


def test_it_can_be_pickled_and_sent_to_another_process(train: ShardSet) -> None:
    train.read(0)
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301 (our own bytes)
    assert copy._store._descriptors == {}
    np.testing.assert_array_equal(copy.read(299).image, train.read(299).image)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(train.read, (290,)).key == "a290"


def test_a_fault_reaches_the_consumer(folder: Path) -> None:
    opened = open_shards(folder, "train")
    path = folder / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(opened.index.image_offset[0]) + 60] ^= 1
    path.write_bytes(data)
    with load(opened, 100) as loader:
        for _ in range(2):  # asked again, it says so again
            with pytest.raises(DataError, match=r"bytes changed .*train-000000.tar: a000"):
                list(islice(loader, 3))


@pytest.mark.parametrize("read_before", [False, True])
def test_damage_is_found_at_every_read(folder: Path, read_before: bool) -> None:
    opened = open_shards(folder, "train")
    if read_before:
        opened.read(5)
    path = folder / "train-000000.tar"
    whole = path.read_bytes()
    for at in (opened.index.image_offset[5] + 60, opened.index.mask_offset[5] + opened.index.mask_size[5] - 20):
        data = bytearray(whole)
        data[int(at)] ^= 1
        path.write_bytes(data)
        for _ in range(2):
            with pytest.raises(DataError, match="bytes changed"):
                opened.read(5)
    path.write_bytes(whole)
    assert opened.read(5).key == "a005"


def test_an_image_of_another_size_is_refused_before_it_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_shards(folder, "train")
    opened.index.height[5] += 1
    monkeypatch.setattr("rayseg.data.images.decode_image", None)
    with pytest.raises(DataError, match="not of the index's size 13x16"):
        opened.read(5)


def test_a_transforms_fault_reaches_the_consumer(train: ShardSet) -> None:
    def fail(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        raise ZeroDivisionError("mine")

    with load(train, 4, transform=fail) as loader, pytest.raises(ZeroDivisionError):
        next(loader)


def test_samples_of_different_sizes_need_a_crop(train: ShardSet) -> None:
    def shrink(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        size = int(rng.integers(4, 10))
        return image[:size], mask[:size]

    with (
        load(train, transform=shrink) as loader,
        pytest.raises(UsageError, match="differ in size"),
    ):
        next(loader)


def test_closing_drops_what_was_not_begun_and_ends_the_threads(train: ShardSet) -> None:
    made, gate = list[int](), threading.Event()
    gate.set()

    def slow(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        made.append(1)
        time.sleep(0.01)
        gate.wait(60)
        return image, mask

    def open_when_closed() -> None:
        with contextlib.suppress(RuntimeError):  # what a pool says that takes no more work
            while True:
                loader._pool.submit(int)
                time.sleep(0.01)
        gate.set()

    loader = load(train, 20, transform=slow, threads=2, prefetch=5)
    next(loader)
    gate.clear()
    before, opener = len(made), threading.Thread(target=open_when_closed)
    opener.start()
    loader.close()
    opener.join()
    assert len(made) <= before + 4, "each thread ends the sample it is at, and may have begun one more"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rayseg-read")]
    with pytest.raises(RuntimeError):
        next(loader)


def test_no_more_than_the_prefetch_is_made(train: ShardSet) -> None:
    made: list[int] = []

    def count(position: int, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        made.append(1)
        return image, mask

    with load(train, 10, transform=count, prefetch=2) as loader:
        next(loader)
        deadline = time.monotonic() + 60
        while len(made) < 30 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(made) == 30


def test_what_is_not_there_is_said(pristine: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'trian'.*did you mean 'train'"):
        open_shards(pristine, "trian")
    with pytest.raises(DataError, match=r"no dataset.json.*rayseg shard CARD"):
        open_shards(tmp_path, "train")
    for path in ("none", "{a,b}", "shards-*", "-", str(pristine / "val-000000.tar")):
        with pytest.raises(DataError, match="no such folder here"):
            open_shards(path, "train")

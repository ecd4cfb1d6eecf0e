"""Every sample once an epoch, whatever is killed and resumed: by property, by damage to the record, by a real run."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayseg import config as configs
from rayseg.data import card as cards
from rayseg.data import cursor, decoded, ledger, open_shards, plan, shards
from rayseg.data.augment import Augmentation, Config
from rayseg.data.ledger import Ledger
from rayseg.data.loader import BatchLoader
from rayseg.data.reader import Samples, ShardSet
from rayseg.data.tolerance import Tolerance
from rayseg.errors import CheckpointError, DataError
from rayseg.schema import to_dict
from rayseg.tracking import NullTracker
from rayseg.train import feed
from rayseg.train.commit import Commit
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

BATCH, SEED = 8, 5
Digests = dict[int, str]


@pytest.fixture(scope="module")
def train(pristine: Path) -> ShardSet:
    return open_shards(pristine, "train")


def part_of(whole: ShardSet, samples: int) -> ShardSet:
    """The first samples of a split."""
    return ShardSet(whole._store, whole.card, whole.index.where(np.arange(len(whole)) < samples))


def run(samples: Samples, folder: Path, *, start: int, steps: int, world: int, threads: int, **order: Any) -> Digests:
    """Let all ranks of one attempt read some steps, record them, and give a digest of each global batch."""
    attempt, parts = ledger.next_attempt(folder), list[list[bytes]]()
    for rank in range(world):
        made = plan.make(len(samples), BATCH, SEED, rank=rank, world=world, **order)
        transform = Augmentation(Config(crop_px=(8, 8), class_uniform=0.5), samples.index.class_pixels, 9)
        with (
            Ledger(folder, attempt=attempt, rank=rank, world=world) as record,
            BatchLoader(samples, made, start_step=start, transform=transform, threads=threads) as loader,
        ):
            for batch in islice(loader, steps):
                record.write(batch)
                pixels = zip(batch.images, batch.masks, strict=True)
                parts.append([image.tobytes() + mask.tobytes() for image, mask in pixels])
    of_step = [[parts[rank * steps + i] for rank in range(world)] for i in range(steps)]
    joined = [b"".join(b"".join(place) for place in zip(*ranks, strict=True)) for ranks in of_step]
    return {start + i: hashlib.sha256(data).hexdigest() for i, data in enumerate(joined)}


legs = st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    mixed=st.none() | st.integers(1, 3),
    legs=st.lists(legs, min_size=1, max_size=4),
)
def test_killed_at_any_step_and_resumed_on_any_ranks(
    train: ShardSet,
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    mixed: int | None,
    legs: list[tuple[int, int, int, int]],
) -> None:
    """Each leg commits some steps, does some more that are lost, and the next goes on from its commit."""
    samples, folder, step = part_of(train, sum(lengths)), tmp_path_factory.mktemp("run"), 0
    order: dict[str, Any] = {"mixed_shards": mixed, "shard_lengths": tuple(lengths)} if mixed else {}
    total = sum(committed for _, _, committed, _ in legs)
    reference = run(samples, tmp_path_factory.mktemp("one"), start=0, steps=total, world=1, threads=1, **order)
    for world, threads, committed, lost in legs:
        steps = committed + (lost if legs[-1] != (world, threads, committed, lost) else 0)
        found = run(samples, folder, start=step, steps=steps, world=world, threads=threads, **order)
        step += committed
        assert {i: digest for i, digest in found.items() if i < step} == {i: reference[i] for i in found if i < step}
    if not total:
        return
    said = ledger.audit(folder, samples.index.key)
    assert said.steps == total or (said.steps > total and not legs[-1][2]), "the last leg did nothing"
    assert (said.lost, said.repeated) == ([], [])
    assert (said.epochs, said.beyond) == divmod(said.steps * BATCH, len(samples))


def test_more_ranks_than_shards_or_samples(train: ShardSet, tmp_path: Path) -> None:
    """One shard of five samples feeds eight ranks: positions are dealt out, not shards."""
    few = part_of(train, 5)
    run(few, tmp_path, start=0, steps=10, world=8, threads=2)
    said = ledger.audit(tmp_path, few.index.key)
    assert (said.epochs, said.beyond, said.lost, said.repeated) == (16, 0, [], [])


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.fixture
def record(train: ShardSet, tmp_path: Path) -> tuple[Path, list[str]]:
    """The record of two epochs of 16 samples on two ranks, and the samples' keys."""
    run(part_of(train, 16), tmp_path, start=0, steps=4, world=2, threads=1)
    assert str(ledger.audit(tmp_path, train.index.key[:16])).endswith(
        "2 epochs and 0 samples: 0 lost, 0 repeated, 0 skipped"
    )
    return tmp_path, train.index.key[:16].tolist()


def lines_of(folder: Path, rank: int) -> list[dict[str, Any]]:
    path = folder / "samples" / f"rank-{rank:04d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def rewrite(folder: Path, rank: int, lines: list[dict[str, Any]]) -> None:
    path = folder / "samples" / f"rank-{rank:04d}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_sample_used_twice_is_found(record: tuple[Path, list[str]]) -> None:
    folder, keys = record
    lines = lines_of(folder, 0)
    first, other = lines[0]["keys"][:2]
    lines[0]["keys"][1] = first
    rewrite(folder, 0, lines)
    said = ledger.audit(folder, keys)
    assert (said.lost, said.repeated) == ([(0, other)], [(0, first)])


def test_a_sample_of_the_wrong_epoch_is_found(record: tuple[Path, list[str]]) -> None:
    """Two samples change their places, one of either epoch: a count over the run would see nothing."""
    folder, keys = record
    lines = lines_of(folder, 1)
    one, other = lines[0]["keys"][0], next(key for key in lines[2]["keys"] if key != lines[0]["keys"][0])
    lines[2]["keys"][lines[2]["keys"].index(other)] = one
    lines[0]["keys"][0] = other
    rewrite(folder, 1, lines)
    said = ledger.audit(folder, keys)
    assert (said.lost, said.repeated) == ([(0, one), (1, other)], [(0, other), (1, one)])


def test_a_stranger_is_found(record: tuple[Path, list[str]]) -> None:
    folder, keys = record
    assert ledger.audit(folder, keys[1:]).repeated
    assert ledger.audit(folder, [*keys, "z"]).lost == [(0, "z")]


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_gap_is_no_record(record: tuple[Path, list[str]], missing: int) -> None:
    folder, keys = record
    rewrite(folder, 1, [line for line in lines_of(folder, 1) if line["step"] != missing])
    with pytest.raises(CheckpointError, match=rf"step {missing} lacks a rank"):
        ledger.audit(folder, keys)
    rewrite(folder, 0, [line for line in lines_of(folder, 0) if line["step"] != missing])
    if missing < 3:
        with pytest.raises(CheckpointError, match="no whole record"):
            ledger.audit(folder, keys)


def test_no_record_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole record"):
        ledger.audit(tmp_path, ["a"])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 40, 400])), max_size=4), max_size=3),
    torn=st.sampled_from([b"", b'{"attempt":7,"rank":0,"wor', b"\0" * 50, b"\xff\xfe"]),
)
def test_an_attempts_number_is_read_from_the_ends_of_the_files(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[int, int]]], torn: bytes
) -> None:
    """It is one more than the largest of all lines, and of each file one line is enough to know it."""
    folder, highest, parsed, whole = tmp_path_factory.mktemp("run"), -1, list[bytes](), ledger._parsed
    (folder / "samples").mkdir()
    for rank, attempts in enumerate(files):
        lines, attempt = b"", -1
        for later, keys in attempts:
            attempt += later
            line = {"attempt": attempt, "rank": rank, "world": 1, "step": 0, "keys": ["k" * 30] * keys}
            lines += b"\n" + json.dumps(line).encode() + b"\n"
        often = 50 if len(attempts) == 1 else 1
        (folder / "samples" / f"rank-{rank:04d}.jsonl").write_bytes(lines * often + torn)
        highest = max(highest, attempt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_TAIL", 1000)
        patch.setattr(ledger, "_parsed", lambda text: parsed.append(text) or whole(text))
        assert ledger.next_attempt(folder) == highest + 1
    assert len([text for text in parsed if whole(text)]) == len([attempts for attempts in files if attempts])


def test_a_missing_step_is_named(train: ShardSet, tmp_path: Path) -> None:
    run(part_of(train, 16), tmp_path, start=0, steps=6, world=1, threads=1)
    rewrite(tmp_path, 0, [line for line in lines_of(tmp_path, 0) if line["step"] not in (3, 4)])
    with pytest.raises(CheckpointError, match="step 3 is missing"):
        ledger.audit(tmp_path, ["a"])


def test_a_line_that_was_not_ended_counts_for_nothing(train: ShardSet, record: tuple[Path, list[str]]) -> None:
    folder, keys = record
    path = folder / "samples" / "rank-0000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"attempt":0,"rank":0,"wor')
    run(part_of(train, 16), folder, start=4, steps=2, world=1, threads=1)
    said = ledger.audit(folder, keys)
    assert (said.steps, said.attempts, said.epochs, said.lost, said.repeated) == (6, 2, 3, [], [])


# --- the cursor -------------------------------------------------------------------------------------------------------


def test_the_cursor_is_one_small_json(train: ShardSet) -> None:
    made = plan.make(300, BATCH, SEED)
    found = cursor.at(made, 80, cursor.digest(train.index))
    assert (found.epoch, found.offset) == (2, 40)
    text = json.dumps(to_dict(found))
    assert len(text) < 200
    cursor.refuse_another(json.loads(text), found, "here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "0" * 16}, "data = .*shards that it was trained on"),
        ({"seed": 6}, "seed = 6.*same seed"),
        ({"global_batch": 16}, r"global_batch = 16.*train\.batch"),
        ({"mixed_shards": 3}, r"mixed_shards = 3.*data\.mixed_shards"),
        ({"step": 81}, "stands at step 81"),
        ({"step": -1}, "not a cursor"),
        ({"stap": 1}, "not a cursor"),
    ],
)
def test_another_stream_is_refused(train: ShardSet, change: dict[str, Any], says: str) -> None:
    found = cursor.at(plan.make(300, BATCH, SEED), 80, cursor.digest(train.index))
    with pytest.raises(CheckpointError, match=says):
        cursor.refuse_another(to_dict(found) | change, found, "here")


def test_the_digest_is_of_the_samples_and_not_of_their_shards(
    train: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_sets import make_card, make_files

    monkeypatch.setattr(shards, "SHARD_SAMPLES", 3)
    files = make_files(tmp_path / "raw", 7, 2)
    shards.write(make_card(), files, tmp_path / "threes")
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 7)
    shards.write(make_card(), files, tmp_path / "sevens")
    threes, sevens = (open_shards(tmp_path / name, "train") for name in ("threes", "sevens"))
    assert threes.shard_lengths() == (3, 3, 1)
    assert sevens.shard_lengths() == (7,)
    assert cursor.digest(threes.index) == cursor.digest(sevens.index)
    assert cursor.digest(part_of(threes, 6).index) != cursor.digest(sevens.index)


def test_shards_of_another_length_are_another_stream_where_the_order_goes_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same samples in other shards: with `mixed_shards` an epoch would lose some and repeat others."""
    from tiny_sets import make_card, make_files

    files, feeds = make_files(tmp_path / "raw", 12, 2), dict[tuple[int, int | None], feed.Feed]()
    for length in (3, 5):
        monkeypatch.setattr(shards, "SHARD_SAMPLES", length)
        shards.write(make_card(), files, tmp_path / str(length))
        for mixed in (None, 2):
            made = settings_of(tmp_path / str(length), **({"data.mixed_shards": mixed} if mixed else {}))
            opened = open_shards(tmp_path / str(length), "train")
            feeds[length, mixed] = feed.Feed(made, LocalRuntime(tmp_path), opened)
    for mixed in (None, 2):
        orders = [plan.order(feeds[length, mixed].plan, 0).tolist() for length in (3, 5)]
        saved = Commit(tmp_path, 2, feeds[3, mixed].state(2))
        feeds[3, mixed].refuse_another(saved)
        if orders[0] == orders[1]:
            feeds[5, mixed].refuse_another(saved)
            assert mixed is None
        else:
            with pytest.raises(CheckpointError, match=r"stream of samples has data = "):
                feeds[5, mixed].refuse_another(saved)
            assert mixed == 2


# --- samples that cannot be read --------------------------------------------------------------------------------------


def damage(folder: Path, rows: list[int]) -> ShardSet:
    """Flip a bit of some train samples."""
    opened = open_shards(folder, "train")
    for row in rows:
        path = folder / opened.index.shard[row]
        data = bytearray(path.read_bytes())
        data[int(opened.index.image_offset[row]) + 60] ^= 1
        path.write_bytes(data)
    return open_shards(folder, "train", bad_shard="skip")


def test_skipped_samples_are_replaced_alike_on_any_ranks_and_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayseg.data.tolerance.LIMIT", 0.02)
    opened, said, seen = damage(folder, [10, 50, 99, 200, 250]), list[str](), dict[int, Any]()
    bad = {"a010", "a050", "a099", "a200", "a250"}
    for world in (1, 2, 4):
        counts, whole = dict[str, str](), list[list[Any]]()
        base = tmp_path / str(world)
        base.mkdir()
        for rank in range(world):
            made, tolerance = plan.make(300, 20, 1, rank=rank, world=world), Tolerance(opened.index, 1, said.append)
            with (
                Ledger(base, attempt=0, rank=rank, world=world) as record,
                BatchLoader(opened, made, tolerance=tolerance, threads=3) as loader,
            ):
                batches = list(islice(loader, 15))
                for batch in batches:
                    record.write(batch)
            assert {len(batch.keys) for batch in batches} == {20 // world}
            counts |= {str(opened.index.key[position]): what for position, what in tolerance.lost.items()}
            whole.append([(batch.keys, batch.images.tobytes()) for batch in batches])
        assert counts.keys() == bad
        keys = [
            k for ranks in zip(*whole, strict=True) for place in zip(*(r[0] for r in ranks), strict=True) for k in place
        ]
        seen[world] = keys
        audit = ledger.audit(base, opened.index.key)
        assert {key for _, key in audit.lost} == bad
        assert audit.skipped == 5
        assert len(audit.repeated) <= 5
    assert seen[1] == seen[2] == seen[4]
    assert said[0].startswith("warning: skipping a sample, 1 of 300 so far: the sample's bytes changed")


def test_too_many_lost_samples_are_given_up(folder: Path) -> None:
    """One of 300 is more than 0.1 %."""
    opened, said = damage(folder, [3]), list[str]()
    with (
        BatchLoader(opened, plan.make(300, 30, 0), tolerance=Tolerance(opened.index, 0, said.append)) as loader,
        pytest.raises(DataError, match=r"1 of 300 samples cannot be read, more than 0\.1%"),
    ):
        list(islice(loader, 10))
    assert not said


def test_the_limit_is_a_share_of_the_samples(train: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayseg.data.tolerance.LIMIT", 0.02)
    tolerance = Tolerance(train.index, 0, lambda line: None)
    for position in (0, 1, 2, 3, 3, 4, 5):
        tolerance.count(position, DataError("x", "y", "z"))
    with pytest.raises(DataError, match=r"7 of 300"):
        tolerance.count(6, DataError("x", "y", "z"))


def test_the_ranks_count_together_what_each_of_them_lost(
    train: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 says what others lost too; one sample that two ranks lost is one; the limit is for all together."""
    monkeypatch.setattr("rayseg.data.tolerance.LIMIT", 0.02)
    said, elsewhere = list[str](), [4, 9, 11]
    config = configs.from_dict(configs.merged(TINY, {"data.shards": "x", "data.bad_shard": "skip"}))

    def summed(tensor: Any) -> Any:
        tensor[elsewhere] += 1
        return tensor

    monkeypatch.setattr(feed, "sum_over_ranks", summed)
    with feed.Feed(config, LocalRuntime(tmp_path), train).begin(0, said.append) as batches:
        tolerance = batches._loader.tolerance
        assert tolerance is not None
        for position in (4, 7):
            tolerance.count(position, DataError("mine", "here", "fix"))
        assert batches.skipped() == batches.skipped() == {"skipped_samples": 4.0}
        assert sorted(tolerance.lost) == [4, 7, 9, 11]
        assert len(said) == 4, "each is said once"
        assert "another rank could not read it (train-000000.tar: a009)" in said[2]
        elsewhere += [20, 21, 22]
        with pytest.raises(DataError, match="7 of 300"):
            batches.skipped()


def test_a_cut_shard_is_opened_or_given_up_by_what_it_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_shards(folder, "train").index
    path, last = folder / "train-000001.tar", 299
    os.truncate(path, int(table.mask_offset[last]))
    with pytest.raises(DataError, match=r"shard of .* bytes, not"):
        open_shards(folder, "train")
    with pytest.raises(DataError, match=r"1 of 300 samples are lost .*train-000001.tar"):
        open_shards(folder, "train", bad_shard="skip")
    monkeypatch.setattr("rayseg.data.tolerance.LIMIT", 0.01)
    opened = open_shards(folder, "train", bad_shard="skip")
    assert opened.read(298).key == "a298"
    with pytest.raises(DataError, match="bytes changed"):
        opened.read(299)
    path.unlink()
    with pytest.raises(DataError, match=r"44 of 300 samples are lost"):
        open_shards(folder, "train", bad_shard="skip")


# --- the decoded split ------------------------------------------------------------------------------------------------


def test_a_decoded_split_gives_the_same_batches(train: ShardSet, tmp_path: Path) -> None:
    some, said = part_of(train, 30), list[str]()
    for _ in range(2):
        fast = decoded.open_decoded(some, tmp_path / "d", threads=2, say=said.append)
    assert len(said) == 1, "it is decoded once"
    options = {"start": 0, "steps": 9, "world": 2, "threads": 2}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run(fast, tmp_path / "a", **options) == run(some, tmp_path / "b", **options)
    with pytest.raises(ValueError, match="read-only"):
        fast.read(0).image[0] = 0
    other = decoded.open_decoded(part_of(train, 31), tmp_path / "d", threads=2, say=said.append)
    assert other.path != fast.path


def test_a_damaged_decoded_split_is_found(train: ShardSet, tmp_path: Path) -> None:
    some = part_of(train, 5)
    path = decoded.open_decoded(some, tmp_path, threads=1, say=lambda line: None).path
    data = bytearray(path.read_bytes())
    data[3 * 4 * 12 * 16 + 5] ^= 1
    path.write_bytes(data)
    broken = decoded.open_decoded(some, tmp_path, threads=1, say=lambda line: None)
    assert broken.read(2).key == "a002"
    with pytest.raises(DataError, match=r"decoded pixels changed .*a003"):
        broken.read(3)
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match="was cut"):
        decoded.open_decoded(some, tmp_path, threads=1, say=lambda line: None)


def test_what_fails_leaves_no_decoded_split(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayseg.data.tolerance.LIMIT", 0.01)
    with pytest.raises(DataError, match="bytes changed"):
        decoded.open_decoded(damage(folder, [7]), tmp_path / "d", threads=2, say=lambda line: None)
    assert [path.suffix for path in (tmp_path / "d").iterdir()] == [".lock"]
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="are free"):
        decoded.open_decoded(open_shards(folder, "val"), tmp_path / "d", threads=2, say=lambda line: None)


def test_memory_stays_flat_over_epochs(train: ShardSet) -> None:
    process = psutil.Process()
    with BatchLoader(train, plan.make(300, 30, 0)) as loader:
        sizes = [process.memory_info().rss for epoch in range(20) for _ in islice(loader, 10) if loader.step % 10 == 0]
    assert len(sizes) == 20
    assert max(sizes[3:]) - sizes[2] < 4 * 2**20


# --- a real run -------------------------------------------------------------------------------------------------------

TINY = {
    "backbone": {"name": "resnet10t", "output_stride": 32},
    "head": {"name": "fcn"},
    "loss": {"aux_weight": 0.0},
    "augment": {"crop_px": [32, 32], "class_uniform": 0.5},
    "train": {"steps": 15, "batch": 4, "eval_every": 4, "log_every": 1, "precision": "fp32", "shown_images": 0},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven and two drawn scenes."""
    whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    whole["generated"] |= {"height": 32, "width": 40}
    whole["splits"] = {"train": {"count": 7}, "val": {"count": 2}}
    out = tmp_path_factory.mktemp("scenes") / "shards"
    shards.write(cards.from_dict(whole), None, out)
    return out


def settings_of(scenes: Path, **changes: Any) -> configs.RunConfig:
    return configs.from_dict(configs.merged(TINY, {"data.shards": str(scenes), **changes}))


class Killed(BaseException):
    """What nothing in a run catches."""


class Mortal(LocalRuntime):
    """A process that is gone after so many steps: by SIGKILL, or by an exception that nothing catches."""

    def __init__(self, run_dir: Path, steps: int, *, really: bool = False) -> None:
        super().__init__(run_dir, "cpu")
        self.steps, self.really = steps, really

    def stop(self) -> None:
        """Be asked after each step: the record says how many this attempt has done."""
        lines = lines_of(self.run_dir, self.rank)
        if sum(line["attempt"] == lines[-1]["attempt"] for line in lines) < self.steps:
            return
        if self.really:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Killed


def killed_for_real(plain: dict[str, Any], run_dir: Path) -> None:
    """Train until killed: the body of another process."""
    import torch

    torch.set_num_threads(1)
    fit(configs.from_dict(plain), Mortal(run_dir, 6, really=True), NullTracker(), show=lambda line: None)


def gone_on(scenes: Path, run_dir: Path) -> ledger.Audit:
    """Resume a run that was killed after six steps from its commits of every fourth, kill it twice more, and end it."""
    config = settings_of(scenes)
    for steps in (1, 6):
        with pytest.raises(Killed):
            fit(config, Mortal(run_dir, steps), NullTracker(), show=lambda line: None)
    assert fit(config, LocalRuntime(run_dir, "cpu"), NullTracker(), show=lambda line: None) is not None
    lines = lines_of(run_dir, 0)
    attempts = [[line["step"] for line in lines if line["attempt"] == number] for number in range(4)]
    assert all(steps == list(range(steps[0], steps[-1] + 1)) and steps[0] % 4 == 0 for steps in attempts)
    assert [len(steps) for steps in attempts[:3]] == [6, 1, 6]
    assert len(lines) > 15, "some steps were done again"
    return ledger.audit(run_dir, open_shards(scenes, "train").index.key)


def test_a_run_killed_and_resumed_used_each_sample_once_an_epoch(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(settings_of(scenes), Mortal(tmp_path, 6), NullTracker(), show=lambda line: None)
    assert gone_on(scenes, tmp_path) == ledger.Audit(15, 4, 8, 4, [], [], 0)
    said = list[str]()
    assert feed.audit(tmp_path, said.append).lost == []
    assert said[0].endswith("15 steps in 4 attempt(s), 8 epochs and 4 samples: 0 lost, 0 repeated, 0 skipped")
    lines = lines_of(tmp_path, 0)
    lines[-1]["keys"][0] = lines[-1]["keys"][1]
    rewrite(tmp_path, 0, lines)
    with pytest.raises(DataError, match=rf"epoch 8 repeats sample '{lines[-1]['keys'][1]}'"):
        feed.audit(tmp_path, said.append)


def test_what_is_no_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no commit"):
        feed.audit(tmp_path, print)


@pytest.mark.slow
def test_a_run_that_the_system_killed_too(scenes: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=killed_for_real, args=(to_dict(settings_of(scenes)), tmp_path)
    )
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    assert gone_on(scenes, tmp_path) == ledger.Audit(15, 4, 8, 4, [], [], 0)


def one_of_two(rank: int, port: int, plain: dict[str, Any], run_dir: Path, steps: int) -> None:
    """Be one rank of two, until killed."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    runtime = Mortal(run_dir, steps, really=True)
    runtime.rank, runtime.world = rank, 2
    fit(configs.from_dict(plain), runtime, NullTracker(), show=lambda line: None)
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_run_of_two_ranks_that_goes_on_with_one_and_with_two_again(scenes: Path, tmp_path: Path) -> None:
    """Killed after 7 steps, resumed at 4 on one rank and gone 5 later, resumed on two until the end."""
    import socket

    config = settings_of(scenes)
    for steps, code in ((7, -signal.SIGKILL), (0, None), (99, 0)):
        if code is None:
            with pytest.raises(Killed):
                fit(config, Mortal(tmp_path, 5), NullTracker(), show=lambda line: None)
            continue
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = [(rank, port, to_dict(config), tmp_path, steps) for rank in range(2)]
        context = multiprocessing.get_context("spawn")
        ranks = [context.Process(target=one_of_two, args=each) for each in arguments]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(240)
        assert [rank.exitcode for rank in ranks] == [code, code]
    said = ledger.audit(tmp_path, open_shards(scenes, "train").index.key)
    assert said == ledger.Audit(15, 3, 8, 4, [], [], 0)
    assert {line["world"] for line in lines_of(tmp_path, 0)} == {1, 2}


@pytest.fixture
def begun(scenes: Path, tmp_path: Path) -> Path:
    """A run that was killed after its first commit."""
    with pytest.raises(Killed):
        fit(settings_of(scenes), Mortal(tmp_path, 5), NullTracker(), show=lambda line: None)
    return tmp_path


def test_a_run_goes_on_with_its_own_samples_alone(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    whole["generated"] |= {"height": 32, "width": 40, "seed": 99}
    whole["splits"] = {"train": {"count": 7}, "val": {"count": 2}}
    other = tmp_path_factory.mktemp("other") / "shards"
    shards.write(cards.from_dict(whole), None, other)
    with pytest.raises(CheckpointError, match=r"stream of samples has data = .*shards that it was trained on"):
        fit(settings_of(other), LocalRuntime(begun, "cpu"), NullTracker(), show=lambda line: None)

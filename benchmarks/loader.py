"""Measure the loader against the limit that decoding sets, and against other loaders of the same samples.

Time is CPU seconds of the whole process tree (neighbours and waiting do not count), one thread in every library, all
cases in turn in each round; a ratio is the median over the rounds.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch

import rivals
from measure import MIB, arguments, publish
from rayseg.data import card, cursor, decoded, index, manifest, open_shards, plan, shards
from rayseg.data.augment import Augmentation, Config
from rayseg.data.balance import Balance
from rayseg.data.loader import BatchLoader
from rayseg.data.manifest import Manifest
from rayseg.data.reader import Samples, ShardSet
from rivals import BATCH, CROP, Epoch

CAMVID = Path(__file__).parents[2] / "shared" / "camvid"
AS_IT_IS = Config(crop_px=(CROP, CROP), scale=(1.0, 1.0))
"""What the other loaders do: crop and mirror."""

ABOUT = f"""CamVid's 367 training pairs, 480 x 360, its PNG images as they are and coded as JPEG of quality 95;
masks are PNGs. Every loader gives shuffled batches of {BATCH} crops of {CROP} x {CROP}, half of them mirrored, uint8,
epoch after epoch with the same workers. The *limit* decodes the same bytes by OpenCV from memory and does nothing else.
`rayseg` alone compares every sample with its hash.

A loader with 0 workers makes its batches while training waits; threads and worker processes make them meanwhile, so a
line is to be compared with those of as many workers. *Of the limit*: samples per CPU second, over the limit's in the
same round. Goals: at least 0.85 on JPEG, at least 3 from the decoded split, ahead of the others.

MosaicML Streaming is left out: it needs numpy below 2.2, the project's pins are above that."""


def tree_cpu() -> float:
    """Sum the CPU seconds of this process, of its children and of those that ended."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def costs(cases: Mapping[str, Epoch], rounds: int) -> dict[str, tuple[float, float]]:
    """Measure microseconds a sample of each case, and the ratio of the first case's to its own."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, epoch in cases.items():
            start = tree_cpu()
            samples = epoch()
            if turn:  # the first warms up
                spent[name].append((tree_cpu() - start) / samples * 1e6)
    first = spent[next(iter(cases))]
    return {
        name: (statistics.median(own), statistics.median(f / o for f, o in zip(first, own, strict=True)))
        for name, own in spent.items()
    }


def table(title: str, found: Mapping[str, tuple[float, float]]) -> str:
    """Lay costs out as a Markdown table."""
    lines = [
        f"## {title}",
        "",
        "| loader | CPU us a sample | samples per CPU second | of the limit |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {us:.0f} | {1e6 / us:.0f} | {ratio:.2f} |" for name, (us, ratio) in found.items()]
    return "\n".join(lines)


def limit(split: ShardSet) -> Epoch:
    """Decode every sample's bytes from memory."""
    data = [tuple(bytes(part) for part in split._bytes(row, "")) for row in range(len(split))]

    def decode() -> int:
        for image, mask in data:
            rivals.decoded(image, mask)
        return len(data)

    return decode


def ours(samples: Samples, threads: int, config: Config = AS_IT_IS, epochs: int = 6) -> Epoch:
    """Read with the loader that `fit` uses."""
    order = plan.make(len(samples), BATCH, 0)
    steps = epochs * len(samples) // BATCH
    change = Augmentation(config, samples.index.class_pixels, 11)

    def read() -> int:
        with BatchLoader(samples, order, end_step=steps, transform=change, threads=threads) as loader:
            return sum(len(batch.keys) for batch in loader)

    return read


def loaders(split: ShardSet, folder: Path, rounds: int, kind: str) -> str:
    """Compare the loaders on one coding of the images."""
    fast = decoded.open_decoded(split, folder / "decoded", threads=2, say=lambda line: None)
    cases: dict[str, Epoch] = {"limit: decoding alone": limit(split)}
    cases |= {f"rayseg, {threads} thread(s)": ours(split, threads) for threads in (1, 2)}
    cases["rayseg, 1 thread(s), decoded split"] = ours(fast, 1)
    cases["rayseg, 2 thread(s), decoded split"] = ours(fast, 2)
    for name, make in rivals.available():
        for workers in (0, 2):
            at = folder / f"{kind}-{name.split()[0]}"
            cases[f"{name}, {workers} worker(s)"] = make(split, at, workers)
    return table(f"{kind} images", costs(cases, rounds))


def augmentations(split: ShardSet, rounds: int) -> str:
    """Show what each part of the augmentation costs on top of reading."""
    base = {"crop_px": (CROP, CROP)}
    parts: dict[str, Config] = {
        "crop and flip": AS_IT_IS,
        "scale 0.5 to 2": Config(**base),
        "scale, jitter": Config(**base, color_jitter=0.4),
        "scale, jitter, blur": Config(**base, color_jitter=0.4, blur=1.0),
        "scale, class-uniform": Config(**base, class_uniform=1.0),
    }
    cases = {"limit: decoding alone": limit(split)} | {name: ours(split, 1, part) for name, part in parts.items()}
    return table("Augmentation, JPEG, one thread", costs(cases, rounds))


def first_batch(split: ShardSet, rounds: int) -> str:
    """Compare the time to the first batch of a fresh start with that of a resume in the middle of an epoch."""
    steps, lasts = {"fresh start": 0, "resume in epoch 40": 40 * len(split) // BATCH + 11}, {}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(4 * rounds):
        for name, step in steps.items():
            plan._order.cache_clear()
            start = time.perf_counter()
            again = open_shards(split.folder, "train")
            order = plan.make(len(again), BATCH, 0)
            change = Augmentation(AS_IT_IS, again.index.class_pixels, 11)
            with BatchLoader(again, order, start_step=step, transform=change, threads=2) as loader:
                lasts[name] = next(loader).step
                taken[name].append(time.perf_counter() - start)
    assert lasts == steps
    fresh, resumed = taken.values()
    ratio = statistics.median(r / f for f, r in zip(fresh, resumed, strict=True))
    medians = f"{1000 * statistics.median(fresh):.0f} ms fresh, {1000 * statistics.median(resumed):.0f} ms in epoch 40"
    said = (
        f"From opening the folder to the first batch, wall time: {medians}, ratio **{ratio:.2f}** (goal: at most 1.2)."
    )
    return f"## First batch\n\n{said}"


def memory(split: ShardSet, epochs: int) -> str:
    """Watch the memory of one loader over epochs."""
    order, process, sizes = plan.make(len(split), BATCH, 0), psutil.Process(), list[float]()
    change = Augmentation(AS_IT_IS, split.index.class_pixels, 11)
    each = len(split) // BATCH
    with BatchLoader(split, order, transform=change) as loader:
        for _ in range(epochs):
            for _ in itertools.islice(loader, each):
                pass
            sizes.append(process.memory_info().rss / MIB)
    grown = sizes[-1] - sizes[min(2, epochs - 1)]
    shown = ", ".join(f"{size:.0f}" for size in sizes)
    said = f"Resident MiB after each: {shown}. From the third to the last: **{grown:+.1f} MiB**."
    return f"## Memory over {epochs} epochs\n\n{said}"


# --- the index alone --------------------------------------------------------------------------------------------------


def draw_index(folder: Path, samples: int, like: ShardSet) -> None:
    """Write `dataset.json` and an index of many samples, without their pixels, repeating a real split's rows."""
    rows = np.arange(samples) % len(like)
    whole = manifest.read(Path(like.folder))
    each = len(like.index.key)
    names = [f"train-{i:06d}.tar" for i in range(-(-samples // each))]
    made = {field.name: getattr(like.index, field.name)[rows] for field in dataclasses.fields(like.index)}
    made["key"] = np.array([f"s{i:07d}" for i in range(samples)], object)
    made["shard"] = np.array([names[i // each] for i in range(samples)], object)
    table = index.Index(**made)
    file = max(whole.shards.values(), key=lambda one: one.size)
    changed = {"samples": {"train": samples}, "shards": dict.fromkeys(names, file), "rows_sha256": index.digest(table)}
    folder.mkdir()
    index.write(folder, table)
    manifest.write(folder, Manifest.model_validate(whole.model_copy(update=changed).model_dump()))


def index_alone(folder: Path, report: Any) -> None:
    """Read an index and plan from it, in a process of its own."""
    process, start = psutil.Process(), time.process_time()
    before = process.memory_info().rss
    whole = manifest.read(folder)
    table = index.read(folder, whole)
    opened = time.process_time()
    held = process.memory_info().rss - before
    plan.positions(plan.make(len(table), BATCH, 0), 123)
    planned = time.process_time()
    cursor.digest(table)
    hashed = time.process_time()
    Balance(table.class_pixels)
    report.put((opened - start, held / MIB, planned - opened, hashed - planned, time.process_time() - hashed))


def growth(like: ShardSet, folder: Path, sizes: Sequence[int]) -> str:
    """Tell how reading the index grows with the number of samples."""
    lines = [
        "## From a thousand samples to a million, index alone",
        "",
        "| samples | read and check, CPU s | MiB held | plan an epoch, ms | hash for cursor, ms | class weights, ms |",
        "|---|---|---|---|---|---|",
    ]
    context = multiprocessing.get_context("spawn")
    for samples in sizes:
        draw_index(folder / str(samples), samples, like)
        queue: Any = context.Queue()
        worker = context.Process(target=index_alone, args=(folder / str(samples), queue))
        worker.start()
        read, held, *rest = queue.get()
        worker.join()
        parts = " | ".join(f"{1000 * seconds:.1f}" for seconds in rest)
        lines.append(f"| {samples:,} | {read:.2f} | {held:.0f} | {parts} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rounds = 2 if options.quick else 7
    with tempfile.TemporaryDirectory() as temporary:
        folder, chosen = Path(temporary), card.load("camvid")
        for kind, image in (("JPEG", "jpeg:95"), ("PNG", "keep")):
            shards.write(chosen, CAMVID, folder / kind, workers=2, image=image)
        jpeg, png = (open_shards(folder / kind, "train") for kind in ("JPEG", "PNG"))
        sections = [ABOUT, loaders(jpeg, folder, rounds, "JPEG"), loaders(png, folder, rounds, "PNG")]
        sections += [augmentations(jpeg, rounds), first_batch(jpeg, rounds), memory(jpeg, 4 if options.quick else 20)]
        sections.append(growth(jpeg, folder, [1000, 10_000] if options.quick else [1000, 10_000, 100_000, 1_000_000]))
    publish("loader", "Loading samples", sections, write=options.write)


if __name__ == "__main__":
    main()

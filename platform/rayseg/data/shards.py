"""Shards: a data set's audited samples as tars that any WebDataset tool reads, with an index and an audit page beside.

Which sample lies in which shard is settled before any work begins, from names and file sizes alone, so the bytes do
not depend on who writes which shard, or on how often the command was killed. The folder appears under its name by one
rename, or not at all (`staging`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import cv2

from rayseg.data import audit, index, manifest, page, pairs, recode, staging, target
from rayseg.data.archive import Writer
from rayseg.data.audit import Audited
from rayseg.data.card import Card
from rayseg.data.index import Index, Row
from rayseg.data.manifest import VERSION, Manifest, ShardFile
from rayseg.data.pairs import Drawn, Pair, Pairs
from rayseg.data.staging import Stage, Task, Written
from rayseg.data.verify import verify as verify
from rayseg.errors import DataError, UsageError
from rayseg.schema import Value

Progress = Callable[[int, int], None]
Crew = Callable[[Sequence[Task], Callable[[int], None]], Generator[Written, None, None]]
"""Who writes shards: takes the tasks and gives what was written, in their order; says how many samples are done, as
they are. `threads` makes one of this process's threads, `cluster.sharding.tasks` one of Ray tasks."""

SHARD_BYTES = 64 * 2**20
SHARD_SAMPLES = 256
"""A shard ends at the first of both (bytes of the source files): small enough to fetch again, large enough that a set
is no swarm of files."""


class Report(Value):
    """What `write` did: where it is, its audit page, samples by split, bytes of all shards, what to tell the user.

    `unchanged`: all was there already. `adopted`: how many samples an interrupted command had already written.
    """

    out: str
    page: str
    samples: dict[str, int]
    bytes: int
    warnings: tuple[str, ...] = ()
    unchanged: bool = False
    adopted: int = 0


def write(
    card: Card,
    root: str | Path | None,
    out: str | Path,
    *,
    workers: int | Crew = 1,
    image: str = recode.KEEP,
    progress: Progress | None = None,
) -> Report:
    """Check every pair of the data set and write shards, index, audit page and `dataset.json` to the new folder `out`.

    `workers` is a number of threads, or another crew; `image` says how images are coded (`recode`).
    `progress(done, total)` is called from this thread after each sample that is written now, or compared: a folder that
    already holds the same samples is left as it is. Whatever fails, `out` is not there; finished shards wait in a
    hidden folder beside it, and the same command goes on from them.

    Raises:
        UsageError: the card and `root` do not go together, or an option is out of range, or `out` is a URL.
        DataError: a file is missing or wrong (it is named), or `out` holds something else.
    """
    recode.check(image)
    crew = workers if callable(workers) else threads(workers)
    folder = target.named(out)
    try:
        found = pairs.find(card, root)
        identity = _identity(card, root, image)
        if not target.is_free(folder):
            return _unchanged(folder, *target.same(folder, card, found, image, progress))
        with staging.claim(folder, identity) as stage:
            if not target.is_free(folder):  # another command was at it, and has ended
                return _unchanged(folder, *target.same(folder, card, found, image, progress))
            return _write(stage, plan(found, card, image, stage.base), crew, progress)
    except OSError as error:
        what, where = f"cannot write the shards: {error.strerror or error}", error.filename or folder
        raise DataError(
            what, where, "check its permissions and the room on the disk, or choose another --out"
        ) from None


def threads(number: int) -> Crew:
    """Make a crew of this process's threads: they audit samples ahead, and the calling one writes.

    Raises:
        UsageError: not 1..256.
    """
    if not 1 <= number <= 256:
        raise UsageError(f"{number} workers", "--workers", "use 1..256")

    def crew(tasks: Sequence[Task], done: Callable[[int], None]) -> Generator[Written, None, None]:
        if not tasks:
            return
        members = itertools.chain.from_iterable(task.members for task in tasks)
        audited = audit.in_order(members, tasks[0].card, tasks[0].image, workers=number)
        with contextlib.closing(audited) as samples:
            for task in tasks:
                yield write_shard(task, itertools.islice(samples, len(task.members)), done)

    return crew


def write_alone(task: Task) -> Written:
    """Audit and write one shard, without threads: the work of another process."""
    samples = (audit.check(pair, task.card, task.image) for pair in task.members)
    return write_shard(task, samples, lambda _: None)


def write_shard(task: Task, samples: Iterable[Audited], done: Callable[[int], None]) -> Written:
    """Write one shard of audited samples and keep it where it waits for the others."""
    part, rows, unknown = task.base / "parts" / uuid.uuid4().hex, list[Row](), Counter[str]()
    with Writer(part, task.split, task.name) as tar:
        for sample in samples:
            rows.append(tar.add(sample))
            unknown.update(sample.mask.unknown)
            done(1)
        file = tar.finish()
    return staging.keep(task, part, Written(task.name, file, rows, dict(unknown)))


def plan(found: Pairs, card: Card, image: str, base: Path) -> list[Task]:
    """Cut each split's pairs into shards, in the order of keys."""
    tasks = list[Task]()
    for split, members in found.items():
        for number, part in enumerate(_cut(members, image)):
            name = f"{split}-{number:06d}.tar"
            inputs = hashlib.sha256("\n".join([name, *(mark for _, mark in part)]).encode()).hexdigest()
            tasks.append(Task(base, name, split, tuple(pair for pair, _ in part), card, image, inputs))
    return tasks


def _cut(members: Sequence[Pair | Drawn], image: str) -> Iterator[list[tuple[Pair | Drawn, str]]]:
    part, room = list[tuple[Pair | Drawn, str]](), SHARD_BYTES
    for pair in members:
        size, mark = pair.signature()
        size *= recode.growth(image, Path(pair.image).suffix)
        if part and (len(part) >= SHARD_SAMPLES or size > room):
            yield part
            part, room = [], SHARD_BYTES
        part.append((pair, mark))
        room -= size
    yield part


def _identity(card: Card, root: str | Path | None, image: str) -> str:
    """Hash what a staging folder is for; OpenCV codes what is coded here."""
    parts = [VERSION, manifest.card_sha256(card), str(root and Path(root).resolve()), image, cv2.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _write(stage: Stage, tasks: list[Task], crew: Crew, progress: Progress | None) -> Report:
    kept = stage.adopt(tasks)
    left = [task for task in tasks if task.name not in kept]
    done, total = itertools.count(1), sum(len(task.members) for task in left)

    def tick(samples: int) -> None:
        for _ in range(samples):
            if progress is not None:
                progress(next(done), total)

    with contextlib.closing(crew(left, tick)) as written:
        new = {one.name: one for one in written}
    whole, table = _describe(stage.shards, tasks[0], [(kept | new)[task.name] for task in tasks])
    if not stage.publish() and (target.is_strange(stage.target) or manifest.read(stage.target) != whole):
        raise target.taken(stage.target)
    staging.sweep(stage.target)
    adopted = sum(len(one.rows) for one in kept.values())
    return _report(stage.target, whole, table).model_copy(update={"adopted": adopted})


def _describe(folder: Path, task: Task, written: Sequence[Written]) -> tuple[Manifest, Index]:
    """Write what stands beside the shards: index, audit page and, last, `dataset.json`."""
    table = index.from_rows([row for shard in written for row in shard.rows])
    audit.refuse_empty_splits(table, task.card)
    index.write(folder, table)
    draft = Manifest(
        card=task.card,
        card_sha256=manifest.card_sha256(task.card),
        image=task.image,
        encoder=recode.encoder(task.image),
        samples=index.counts(table),
        shards={shard.name: shard.file for shard in written},
        rows_sha256=index.digest(table),
        page=ShardFile(size=1, sha256="0" * 64),
        unknown=_unknown(written),
    )
    whole = draft.model_copy(update={"page": page.write(folder, draft, table)})
    manifest.write(folder, whole)
    return whole, table


def _unknown(written: Sequence[Written]) -> dict[str, dict[str, int]]:
    """Add up, by split, the pixels whose value or colour the card does not know: the most frequent first."""
    total: dict[str, Counter[str]] = {}
    for shard in written:
        total.setdefault(shard.rows[0].split, Counter()).update(shard.unknown)
    ranked = {split: sorted(counter.items(), key=lambda item: (-item[1], item[0])) for split, counter in total.items()}
    return {split: dict(items[: manifest.MOST_UNKNOWN]) for split, items in ranked.items() if items}


def _unchanged(folder: Path, done: Manifest, table: Index) -> Report:
    staging.sweep(folder)
    return _report(folder, done, table).model_copy(update={"unchanged": True})


def _report(folder: Path, done: Manifest, table: Index) -> Report:
    total = sum(file.size for file in done.shards.values())
    said = audit.warnings(table, done.card, done.samples)
    page_path = str(folder / manifest.PAGE)
    return Report(out=str(folder), page=page_path, samples=done.samples, bytes=total, warnings=said)


def left(out: str | Path) -> list[Path]:
    """Find where finished shards of commands that did not come to their end wait for `out`."""
    return staging.left(Path(out).resolve())

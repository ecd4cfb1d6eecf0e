"""The record of what a run has trained on: which samples each of its steps took, and the proof that none is missing.

    <run>/samples/rank-NNNN.jsonl   a line a step: {"attempt": 0, "step": 17, "rank": 0, "world": 2, "keys": [...]}

Every rank appends to a file of its own, and a line is with the system before the next step begins, so a killed process
loses none (a machine that loses power may: the audit then names the first step that is missing). A run that is
interrupted goes on from a commit and does some steps again; that is a new attempt, and what counts of an older one are
its steps before the one at which the newer began: the steps that made the weights.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from rayseg.data.loader import Batch
from rayseg.errors import CheckpointError

FOLDER = "samples"
_TAIL = 2**16
"""Bytes at a file's end among which the last line is looked for first."""


class Ledger:
    """Writes one rank's part of the record."""

    def __init__(self, run_dir: Path, *, attempt: int, rank: int, world: int) -> None:
        self._same = {"attempt": attempt, "rank": rank, "world": world}
        path = run_dir / FOLDER / f"rank-{rank:04d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("ab")
        self._file.write(b"\n")  # ends what a killed process did not

    def write(self, batch: Batch) -> None:
        """Note a step's samples, and by their place those that others stand in for; 10 us."""
        lost = {"lost": batch.lost} if batch.lost else {}
        line = json.dumps({**self._same, "step": batch.step, "keys": batch.keys, **lost}, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Audit(NamedTuple):
    """What a record comes to: how many whole epochs it holds and how many samples of the next, in how many attempts.

    `lost` are (epoch, key) that a whole epoch lacks, `repeated` those that an epoch holds again. `skipped` counts how
    often a sample could not be read and another stood in: the one is lost, the other may be repeated.
    """

    steps: int
    attempts: int
    epochs: int
    beyond: int
    lost: list[tuple[int, str]]
    repeated: list[tuple[int, str]]
    skipped: int

    def __str__(self) -> str:
        said = f"{self.steps} steps in {self.attempts} attempt(s), {self.epochs} epochs and {self.beyond} samples: "
        return said + f"{len(self.lost)} lost, {len(self.repeated)} repeated, {self.skipped} skipped"


def next_attempt(run_dir: Path) -> int:
    """Number the attempt that begins now, by the ends of the files; only one process may ask, and tells the others."""
    return 1 + max(map(_last_attempt, _files(run_dir)), default=-1)


def audit(run_dir: Path, keys: Iterable[str]) -> Audit:
    """Count each sample in each epoch, from the record and the split's keys alone.

    Raises:
        CheckpointError: no record, or a step or a rank of it is missing.
    """
    lines = list(_lines(run_dir))
    kept = _kept(lines, run_dir)
    every, stream, skipped = set(keys), list[str](), 0
    for step in sorted(kept):
        stream += _interleaved(kept[step], run_dir, step)
    epochs, beyond = divmod(len(stream), len(every))
    lost, repeated = list[tuple[int, str]](), list[tuple[int, str]]()
    for epoch in range(epochs + bool(beyond)):
        counts = Counter(stream[epoch * len(every) : (epoch + 1) * len(every)])
        repeated += [(epoch, key) for key, number in counts.items() if number > 1 or key not in every]
        lost += [(epoch, key) for key in sorted(every - counts.keys())] if epoch < epochs else []
    skipped = sum(len(line.get("lost", ())) for parts in kept.values() for line in parts)
    attempts = 1 + max(line["attempt"] for line in lines)
    return Audit(len(kept), attempts, epochs, beyond, lost, repeated, skipped)


def _kept(lines: list[dict[str, Any]], run_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """Keep the lines of each step's last attempt, and refuse a record with a gap."""
    first: dict[int, int] = {}
    for line in lines:
        first[line["attempt"]] = min(first.get(line["attempt"], line["step"]), line["step"])
    ends = {attempt: min((first[later] for later in first if later > attempt), default=math.inf) for attempt in first}
    kept: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["step"] < ends[line["attempt"]]:
            kept.setdefault(line["step"], []).append(line)
    if (missing := next(step for step in range(len(kept) + 1) if step not in kept)) <= max(kept, default=0):
        what = f"no whole record of its samples: step {missing} is missing"
        raise CheckpointError(what, run_dir / FOLDER, "audit a run that this version made")
    return kept


def _interleaved(parts: list[dict[str, Any]], run_dir: Path, step: int) -> list[str]:
    """Put the ranks' samples of one step in the stream's order: rank r of W has every W-th place from r on."""
    parts = sorted(parts, key=lambda line: line["rank"])
    if [line["rank"] for line in parts] != list(range(parts[0]["world"])):
        raise CheckpointError(f"step {step} lacks a rank", run_dir / FOLDER, "audit a run that this version made")
    return [key for of_place in zip(*(line["keys"] for line in parts), strict=True) for key in of_place]


def _lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Read the record; a line that a killed process did not end counts for nothing, for its step was not done."""
    for path in _files(run_dir):
        with path.open("rb") as file:
            yield from filter(None, map(_parsed, file))


def _files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).glob("rank-*.jsonl"))


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return line


def _last_attempt(path: Path) -> int:
    """Read a file's end alone: however far a run has come, it goes on as fast."""
    size, tail = path.stat().st_size, _TAIL
    with path.open("rb") as file:
        while True:
            file.seek(max(0, size - tail))
            for text in reversed(file.read().split(b"\n")):
                if (line := _parsed(text)) is not None:
                    return int(line["attempt"])
            if tail >= size:
                return -1
            tail *= 8

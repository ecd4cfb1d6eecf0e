"""`data.bad_shard = "skip"`: going on where a few samples cannot be read, and giving up where they are many.

A sample that cannot be read is replaced by another one of the split, drawn from (seed, epoch, its key), so every batch
keeps its size, every rank has as many batches as any other, and a resume draws the same. What is lost and what stands
in for it is said, counted (`train/skipped_samples`), and written to the run's record of samples: an epoch then
holds the lost samples not at all and their replacements once more. The ranks tell each other what they lost whenever
the run logs, so that the limit is one for all of them. Only training skips; an evaluation over other samples than the
split's would be another figure. A network that is away is no bad shard, and is never skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rayseg.data import plan
from rayseg.data.index import Index
from rayseg.errors import DataError

LIMIT = 0.001
"""More than this share of a split's samples lost is no accident."""
FIX = "copy the folder again, or shard the data again; `rayseg verify` names what is damaged"


def check_shards(folder: Path, table: Index) -> None:
    """Give up at once where shards that are cut or missing hold more than `LIMIT` of the samples.

    Raises:
        DataError: they do; it names the first.
    """
    paths = {name: folder / name for name in table.shard}
    there = {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}
    lost = np.flatnonzero(table.mask_offset + table.mask_size > [there[name] for name in table.shard])
    if len(lost) > LIMIT * len(table):
        what = f"{len(lost)} of {len(table)} samples are lost in shards that are cut or missing, more than {LIMIT:.1%}"
        raise DataError(what, paths[table.shard[lost[0]]], FIX)


class Tolerance:
    """Counts lost samples and draws what replaces them. Threads share it."""

    def __init__(self, table: Index, seed: int, say: Callable[[str], None]) -> None:
        self._table, self._seed, self._say = table, seed, say
        self._lock = threading.Lock()
        self.lost: dict[int, str] = {}
        """What was wrong with each lost sample, by its position."""

    def count(self, position: int, error: DataError) -> None:
        """Take note of a lost sample, and say so the first time.

        Raises:
            DataError: more than `LIMIT` of the samples are lost.
        """
        total = len(self._table)
        with self._lock:
            known = position in self.lost
            self.lost.setdefault(position, error.what)
            number = len(self.lost)
        if number > LIMIT * total:
            what = f"{number} of {total} samples cannot be read, more than {LIMIT:.1%}; the last: {error.what}"
            raise DataError(what, error.where, FIX)
        if not known:
            self._say(f"warning: skipping a sample, {number} of {total} so far: {error.what} ({error.where})")

    def learn(self, positions: Iterable[int]) -> None:
        """Count what any rank lost.

        Raises:
            DataError: together more than `LIMIT` of the samples.
        """
        for position in positions:
            where = f"{self._table.shard[position]}: {self._table.key[position]}"
            self.count(position, DataError("another rank could not read it", where, FIX))

    def replacement(self, position: int, epoch: int, attempt: int) -> int:
        """Draw what is read instead of a lost sample; another one at each attempt."""
        rng = plan.augmentation_rng(self._seed, epoch, f"{self._table.key[position]} {attempt}")
        return int(rng.integers(len(self._table)))

"""Where a run's time goes, over all its attempts: seconds by kind, which add up to its wall clock.

    <run>/attempts/NNNN.json   one small file an attempt, written over at most ten times a second

What an attempt had done behind the commit that the next one begins with was done for nothing: those seconds are
`wasted`, whatever they were spent on. Between a killed attempt and the next one the run is `down`; a pause that a
person asked for does not count. Time within an attempt, and between two on one boot of a machine, is the monotonic
clock's: setting the wall clock changes nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

Kind = Literal["start_up", "resume", "data_wait", "training", "evaluation", "commits", "reports", "closing"]
Item = TypeVar("Item")

REDONE = ("data_wait", "training", "evaluation", "commits", "reports")
"""What is done again where it was lost."""
ORDER = ("training", "evaluation", "data_wait", "commits", "reports", "start_up", "resume", "wasted", "down", "closing")
FOLDER, PAUSE_S, MARKS, WHY, WIDTH = "attempts", 0.1, 5, 300, 4000


class Goodput:
    """The stopwatch of one attempt: time always counts for one kind. Rank 0's is written down."""

    def __init__(self, run_dir: Path, *, write: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._write, self._clock = run_dir / FOLDER, write, clock
        self.number = 0
        self._file: int | None = None
        self._kind: Kind = "start_up"
        self._lap = self._written = clock()
        self._seconds: dict[str, float] = {}
        self._record: dict[str, Any] = {"boot": _boot(), "wall": time.time(), "began": self._lap, "marks": []}

    def begin(self, step: int) -> None:
        """Write down that an attempt goes on from `step`; only then does it count."""
        number = len(_files(self._folder.parent))
        self.number = number + 1
        self._kind = "resume" if number else "start_up"
        self._record |= {"from": step, "step": step}
        if self._write:
            with suppress(OSError):  # a full disk is said by who needs it
                self._folder.mkdir(parents=True, exist_ok=True)
                flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
                self._file = os.open(self._folder / f"{number:04d}.json", flags, 0o600)
        self._save()

    def enter(self, kind: Kind) -> Kind:
        """Let time count for `kind` from now on; give what it counted for."""
        now, before = self._clock(), self._kind
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._lap
        self._kind, self._lap = kind, now
        return before

    def seconds(self, kind: Kind) -> float:
        """Give what was spent on `kind` so far."""
        self.enter(self._kind)
        return self._seconds.get(kind, 0.0)

    @contextmanager
    def during(self, kind: Kind) -> Iterator[None]:
        """Let time count for `kind` within the block."""
        before = self.enter(kind)
        try:
            yield
        finally:
            self.enter(before)

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Give the batches; the time until each one is there is waiting, what follows it is training."""
        source = iter(batches)
        while True:
            self.enter("data_wait")
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self.enter("training")
            yield batch

    def did(self, step: int) -> None:
        """Note that `step` updates are done."""
        self._record["step"] = step
        self.beat()

    def beat(self) -> None:
        """Write down what was spent so far, unless that was done a moment ago."""
        if self._clock() - self._written > PAUSE_S:
            self._save()

    def mark(self, step: int) -> None:
        """Note what was spent when the commit of `step` was begun."""
        self.enter(self._kind)
        self._record["marks"] = [*self._record["marks"][1 - MARKS :], [step, _rounded(self._seconds)]]

    def end(self, how: Literal["over", "paused", "failed"], why: str = "") -> None:
        """Close the attempt, and say why in words; one that is not closed was killed. What is closed stays as it is."""
        if self._file is not None:
            self._record |= {"ended": how, "why": why[:WHY]}
            self._save()
            os.close(self._file)
            self._file = None

    def _save(self) -> None:
        """Write over the record in one call within a page, which a kill does not tear."""
        self.enter(self._kind)
        self._written = self._lap
        if self._file is not None:
            text = json.dumps(self._record | {"until": self._lap, "seconds": _rounded(self._seconds)})
            with suppress(OSError):
                os.pwrite(self._file, text.ljust(WIDTH).encode()[:WIDTH], 0)


class Account(NamedTuple):
    """Seconds by kind over all attempts; they add up to `wall_s`. `lost_steps` were done again."""

    seconds: dict[str, float]
    attempts: int
    lost_steps: int

    @property
    def wall_s(self) -> float:
        """The seconds from the first attempt's start to the last one's end, without pauses."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the wall clock spent on updates that made the weights."""
        return self.seconds.get("training", 0.0) / max(self.wall_s, 1e-9)

    def lines(self) -> list[str]:
        """Say it in two lines."""
        others = [f"{_named(k)} {self._share(k)}" for k in ORDER if k != "training" and self.seconds.get(k, 0.0) > 0]
        lost = f"{self.lost_steps} step(s) lost and redone"
        return [
            f"goodput {self.goodput:.1%} of {self.wall_s:.1f} s in {self.attempts} attempt(s), {lost}",
            f"training {self._share('training')}, {', '.join(others)}",
        ]

    def plain(self) -> dict[str, float]:
        """Give what `summary.json` keeps."""
        kinds = {f"{kind}_s": round(self.seconds.get(kind, 0.0), 3) for kind in ORDER}
        counts = {"attempts": self.attempts, "lost_steps": self.lost_steps}
        return {"goodput": round(self.goodput, 4), "wall_s": round(self.wall_s, 3), **kinds, **counts}

    def _share(self, kind: str) -> str:
        return f"{self.seconds.get(kind, 0.0) / max(self.wall_s, 1e-9):.1%}"


def account(run_dir: Path) -> Account:
    """Add up a run's attempts."""
    records = [record for record in map(_read, _files(run_dir)) if record]
    total = dict.fromkeys(ORDER, 0.0)
    lost = 0
    for i, record in enumerate(records):
        spent, redone = _kept(record, min((later["from"] for later in records[i + 1 :]), default=record["step"]))
        lost += redone
        for kind, seconds in spent.items():
            total[kind] += seconds
        if i + 1 < len(records) and record.get("ended") != "paused":
            total["down"] += _between(record, records[i + 1])
    return Account(total, len(records), lost)


class Past(NamedTuple):
    """One attempt as its record has it: from which step to which, how and why it ended, and where its time went.

    `ended` is None for one that was killed. Its account counts as wasted what the run did not keep of it.
    """

    number: int
    start: int
    step: int
    ended: str | None
    why: str
    ended_s: float
    account: Account


def past(run_dir: Path, newest: int | None = None) -> list[Past]:
    """List a run's attempts; of the last one the run keeps what its `newest` commit has."""
    read = [(int(path.stem) + 1, record) for path in _files(run_dir) if (record := _read(path))]
    told = []
    for i, (number, record) in enumerate(read):
        kept = record["step"] if newest is None or record.get("ended") in ("over", "paused") else newest
        spent, lost = _kept(record, min((later["from"] for _, later in read[i + 1 :]), default=kept))
        ended_s = record["wall"] + record["until"] - record["began"]
        how, why = record.get("ended"), record.get("why", "")
        told.append(Past(number, record["from"], record["step"], how, why, ended_s, Account(spent, 1, lost)))
    return told


def _kept(record: dict[str, Any], end: int) -> tuple[dict[str, float], int]:
    """Split an attempt's seconds, of which the next one kept the steps up to `end`; count the steps it did not."""
    spent = dict(record["seconds"])
    if end >= record["step"]:
        return spent, 0
    kept = dict(record["marks"]).get(end, {}) if end > record["from"] else {}
    wasted = 0.0
    for kind in REDONE:
        wasted += spent.get(kind, 0.0) - kept.get(kind, 0.0)
        spent[kind] = kept.get(kind, 0.0)
    return spent | {"wasted": wasted}, record["step"] - max(end, record["from"])


def _between(one: dict[str, Any], other: dict[str, Any]) -> float:
    if one["boot"] == other["boot"]:
        return float(max(0.0, other["began"] - one["until"]))
    return float(max(0.0, other["wall"] - one["wall"] - (one["until"] - one["began"])))


def _files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).glob("*.json"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {kind: round(value, 4) for kind, value in seconds.items()}


def _named(kind: str) -> str:
    return kind.replace("_", "-" if kind == "start_up" else " ")

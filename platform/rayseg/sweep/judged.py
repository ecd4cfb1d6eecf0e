"""What the finals of a sweep came to, as `finals.json` keeps it: finalists, intervals of their differences, verdict."""

from __future__ import annotations

from rayseg.schema import Value

PLACE = "finals.json"


class Finalist(Value):
    """A trial by its key, and the runs of all its seeds with their best mIoU; `spread` is None of one seed."""

    key: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    miou: tuple[float, ...]
    mean: float
    spread: float | None

    @property
    def run(self) -> str:
        """The trial that came to its end with the first seed: another one where `key` itself was stopped."""
        return self.trials[0]


class Pair(Value):
    """By how much the mean mIoU of the best is above another's, and where that lies with probability `level`."""

    best: str
    other: str
    difference: float
    low: float
    high: float
    level: float


class Judged(Value):
    """What `finals.json` has: the finalists, the best first, and the best against each other one.

    The verdict is `winner KEY`, `tie: ...`, or `open: ...` where one seed each, or too few images, decide nothing.
    """

    images: int
    seeds_varied: bool
    finalists: tuple[Finalist, ...]
    pairs: tuple[Pair, ...]
    verdict: str

    @property
    def winner(self) -> bool:
        """Whether the first finalist is better than all others by more than chance."""
        return self.verdict.startswith("winner")

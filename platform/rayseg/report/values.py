"""What a report is made of: plain values, as they were gathered from a sweep's folder, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rayseg.sweep.judged import Judged

State = Literal["runs", "finished", "stopped", "failed", "known"]
Curve = tuple[tuple[int, float], ...]
"""(step, value) in the order of steps."""


class Searched(NamedTuple):
    """A searched name; numbers between bounds have a `scale`, a choice has none and keeps its values in order."""

    name: str
    label: str
    scale: Literal["linear", "log"] | None
    values: tuple[Any, ...]


class Costs(NamedTuple):
    """What a trial took; None is what nobody measured. `samples` are those it trained on itself."""

    seconds: float | None = None
    training_s: float | None = None
    samples: int = 0
    spared_steps: int = 0


class Trial(NamedTuple):
    """One trial; `miou` is its best, None before it was evaluated.

    `further` is a finalist's further seed: in the finals, and in no ranking. `donor` is whose weights it began with.
    """

    key: str
    point: Mapping[str, Any]
    state: State
    why: str
    miou: float | None = None
    last: float | None = None
    step: int = 0
    steps: int | None = None
    parameters: int | None = None
    latency_ms: float | None = None
    boundary: float | None = None
    costs: Costs = Costs()
    curves: Mapping[str, Curve] = {}
    donor: str | None = None
    further: bool = False

    @property
    def counts(self) -> bool:
        """Whether its mIoU is one of the sweep's: it was evaluated, did not fail, and is no further seed."""
        return self.miou is not None and self.state != "failed" and not self.further


class OfClass(NamedTuple):
    """A class's IoU in the winner and in the base trial; None where it is not defined."""

    name: str
    here: float | None
    base: float | None


class Picture(NamedTuple):
    """A picture to embed: what it shows, its media type and its bytes."""

    about: str
    media: str
    data: bytes


class Rerun(NamedTuple):
    """The winner's run again: its recipe as TOML, and lines for a shell; `why` says where no line gives the same run.

    `with_file` is true where the line reads the TOML, kept as `winner.toml`.
    """

    toml: str
    train: str
    evaluate: str
    with_file: bool = False
    why: str = ""


class Report(NamedTuple):
    """A whole report. `trials` are ranked, the best first; `winner` is the key of the one that is named or leads.

    `rungs` are those searched names that a ladder's rungs set: no choice of the search.
    """

    name: str
    about: str
    over: bool
    trials: tuple[Trial, ...]
    waiting: int
    searched: tuple[Searched, ...]
    rungs: tuple[str, ...]
    picture: tuple[str, str] | None
    objectives: tuple[str, ...]
    winner: str
    base: str
    finals: Judged | None
    classes: tuple[OfClass, ...]
    pictures: tuple[Picture, ...]
    rerun: Rerun | None
    wall_s: float | None
    facts: Mapping[str, str]
    notes: tuple[str, ...]

    def trial(self, key: str) -> Trial:
        """Find a trial by its key."""
        return next(trial for trial in self.trials if trial.key == key)

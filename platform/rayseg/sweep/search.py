"""What decides a sweep: which run starts next, which one stops. Pure; told the same story it decides the same.

Whoever runs the trials asks `suggest` when there is room, tells every report and every end, and writes it all down. A
sweep whose driver was killed makes its search anew and tells it what the journal says, in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from rayseg.sweep.journal import Outcome
from rayseg.sweep.trial import Trial

Figures = Mapping[str, float]
"""What a trial reports of an evaluation: `step`, `miou`, `loss`, and the other metrics by name."""


class Donor(NamedTuple):
    """A trial, and the step of its commit, whose weights and momentum a new trial begins with."""

    key: str
    step: int


class Suggestion(NamedTuple):
    """A trial to start; with a `donor` it goes on from that one's commit at its own config.

    `note` says for a reader why it starts, where that is not plain: `promoted to rung 2`, `goes on from 3fa29c01`.
    `final` names the finalist whose further run it is.
    """

    trial: Trial
    donor: Donor | None = None
    note: str = ""
    final: str = ""


Next = Suggestion | Literal["wait", "done"]
"""`wait`: nothing before another trial reports or ends. `done`: nothing more, ever."""


class Search(Protocol):
    """Searches a space. A trial's key stands for it everywhere."""

    def suggest(self) -> Next:
        """Name the next trial; it counts as started."""

    def report(self, key: str, figures: Figures) -> str | None:
        """Take in an evaluation; where the trial should go no further, say why in words for its reader."""

    def ended(self, key: str, outcome: Outcome) -> None:
        """Take in that a trial is over: `finished`, `stopped` (as `report` said), or `failed`."""

    def closing(self) -> list[str]:
        """Write what the search itself found, in lines, for the end of the sweep; often nothing."""

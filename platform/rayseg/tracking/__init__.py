"""Tracking: what a run writes down. The loop talks to a `Tracker`; only what stands in this folder knows MLflow.

A run has attempts, one for each time that it was started or went on: children of its own, which hold what belongs to
one attempt alone. The run itself holds the points of all of them, each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Dataset(NamedTuple):
    """A split that a run reads; `digest` names the samples in it, `context` says what for: `train`, `validation`."""

    name: str
    digest: str
    source: str
    context: str
    samples: int
    classes: int


class Ending(NamedTuple):
    """How an attempt ended: at `step`, `why` in words, with its figures; `ended_s` is in unix seconds, None for now."""

    status: Status
    why: str
    step: int
    figures: Mapping[str, float] = {}
    ended_s: float | None = None


class Tracker(Protocol):
    """Rank 0 alone calls it. No call waits for the network, and none raises because a server is away."""

    def config(self, resolved: Mapping[str, Any]) -> None:
        """Write down the run's resolved config (nested plain types), once; again with the same content is fine."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append one point per name at optimizer step `step`."""

    def artifact(self, source: Path, folder: str = "") -> None:
        """Keep a copy of a file under `folder` of the run's artifacts; a later one of the same name replaces it."""

    def tag(self, name: str, value: str) -> None:
        """Set a tag; the last value stands."""

    def inputs(self, datasets: Sequence[Dataset]) -> None:
        """Say what the run reads; again with the same content is fine."""

    def attempt(self, number: int, facts: Mapping[str, str]) -> None:
        """Begin the run of an attempt (the first is 1), with what is fixed about it."""

    def attempt_metrics(self, number: int, values: Mapping[str, float], sample: int) -> None:
        """Append one point per name to an attempt; they are counted by sample, for two may fall into one step."""

    def attempt_over(self, number: int, ending: Ending) -> None:
        """Close the run of an attempt; only the first time counts, and only for one that was begun."""

    def close(self, status: Status) -> None:
        """Say how the run ended and give the server a bounded time to catch up."""


class NullTracker:
    """Writes nothing down: for tests and for ranks other than 0."""

    def config(self, resolved: Mapping[str, Any]) -> None:
        """Drop it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Drop it."""

    def artifact(self, source: Path, folder: str = "") -> None:
        """Drop it."""

    def tag(self, name: str, value: str) -> None:
        """Drop it."""

    def inputs(self, datasets: Sequence[Dataset]) -> None:
        """Drop it."""

    def attempt(self, number: int, facts: Mapping[str, str]) -> None:
        """Drop it."""

    def attempt_metrics(self, number: int, values: Mapping[str, float], sample: int) -> None:
        """Drop it."""

    def attempt_over(self, number: int, ending: Ending) -> None:
        """Drop it."""

    def close(self, status: Status) -> None:
        """Drop it."""

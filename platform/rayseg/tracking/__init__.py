"""Tracking: what a run writes down. The loop talks to a `Tracker`; only `mlflow_tracker` knows MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]


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

    def close(self, status: Status) -> None:
        """Drop it."""

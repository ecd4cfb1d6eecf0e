"""The sweep's journal: JSON lines, appended and synced, that say what was asked for and what happened.

It is what `--resume` reads after the driver was killed. Ray Tune's own state is a pickle, rewritten in place: it is
never read. A line torn by a kill is dropped; everything before it stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rayseg.errors import CheckpointError

Outcome = Literal["finished", "stopped", "failed"]


class Result(NamedTuple):
    """One report of a trial, in the order the driver got it."""

    key: str
    step: int
    miou: float


class Story(NamedTuple):
    """What the journal tells: the sweep's own settings, every result in order, how trials ended, and every event.

    The events, each with its fields, in order: `plan`, `resume`, `suggest` (key, point, donor), `adopt` (key, donor,
    step: the commit that it really began with), `result` (key, step, miou, figures), `stop` (key, reason), `end` (key,
    outcome, reason), `retry` (key: it failed before, and what follows of it is not told to the search).
    """

    plan: dict[str, Any]
    results: list[Result]
    outcomes: dict[str, Outcome]
    events: tuple[dict[str, Any], ...] = ()


class Journal:
    """Appends events; only the driver that holds the sweep's directory writes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.jsonl"
        self._cut_torn_line()
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append one event and wait until it is on disk."""
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))


def tell(folder: Path) -> Story | None:
    """Read a sweep's journal; None where there is none.

    Raises:
        CheckpointError: a line in its middle cannot be read.
    """
    path = folder / "journal.jsonl"
    if not path.exists():
        return None
    plan: dict[str, Any] = {}
    results: list[Result] = []
    outcomes: dict[str, Outcome] = {}
    events = tuple(_events(path))
    for fields in events:
        if fields["event"] == "plan":
            plan = fields
        elif fields["event"] == "result":
            results.append(Result(fields["key"], fields["step"], fields["miou"]))
        elif fields["event"] == "end":
            outcomes[fields["key"]] = fields["outcome"]
    return Story(plan, results, outcomes, events) if plan else None


def _events(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError:
            raise CheckpointError(
                f"line {number} cannot be read", path, "remove that line; what it told is done again"
            ) from None

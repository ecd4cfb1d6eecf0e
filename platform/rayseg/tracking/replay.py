"""From the spool to a server: what has been brought, and what comes next.

`tracking/replayed.json` holds the offset up to which the server has everything, written after each answer. A crash
between the two brings one batch again; the server takes an equal point (same name, time, step, value) for the same.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rayseg.errors import RaysegError
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking.identity import read_identity, replace_text
from rayseg.tracking.redact import redact
from rayseg.tracking.spool import Line, Of, read_lines

BATCH_POINTS = 500  # one call of 200 points takes 32 ms, of one point 11 ms; the server's limit is 1000
PATIENCE = 5  # failures in a row after which a last attempt gives up: one second, where the connection is refused

_log = logging.getLogger("rayseg.tracking")


class Point(NamedTuple):
    """One value of one metric; `time_ms` since 1970."""

    name: str
    value: float
    time_ms: int
    step: int


class Mark(Value):
    """How far one run has been brought, and where to."""

    offset: int = 0
    experiment_id: str | None = None
    run_id: str | None = None
    parent_id: str | None = None


class RefusedError(Exception):
    """The server answered that it will never take this line."""


class Destination(Protocol):
    """A run at a server, and those of its attempts (`of`; None is the run itself).

    Every call may raise anything; doing it twice is the same as doing it once.
    """

    def attach(self, mark: Mark) -> Mark:
        """Find or create the run; a mark of offset 0 where it is not the run that `mark` knows."""

    def config(self, values: dict[str, Any]) -> None:
        """Store the nested config as parameters."""

    def attempt(self, number: int, facts: dict[str, str], time_ms: int) -> None:
        """Find or create an attempt's run, under this one, and store what is fixed about it as parameters."""

    def values(self, points: list[Point], tags: dict[str, str], of: Of) -> None:
        """Store points and tags."""

    def artifact(self, file: Path, folder: str) -> None:
        """Store a file."""

    def inputs(self, datasets: list[dict[str, Any]]) -> None:
        """Store what the run reads."""

    def status(self, status: str, time_ms: int, of: Of) -> None:
        """Say that it is RUNNING, FINISHED, FAILED or KILLED."""


class ReplayReport(Value):
    """What a replay brought. `error` is None when the server has everything the spool held."""

    lines: int = 0
    points: int = 0
    artifacts: int = 0
    skipped: int = 0
    error: str | None = None

    def __add__(self, later: ReplayReport) -> ReplayReport:
        """Count both; the later one's error stands."""
        return ReplayReport(
            lines=self.lines + later.lines,
            points=self.points + later.points,
            artifacts=self.artifacts + later.artifacts,
            skipped=self.skipped + later.skipped,
            error=later.error,
        )

    @property
    def complete(self) -> bool:
        """Say whether the server has it all."""
        return self.error is None


def read_mark(run_dir: Path) -> Mark:
    """Read how far the run has been brought; from the start where that is not known."""
    path = run_dir / "tracking" / "replayed.json"
    try:
        return parse(Mark, json.loads(path.read_text()), path)
    except (OSError, ValueError, RaysegError):
        return Mark()


def unsynced(root: Path) -> list[Path]:
    """Find the run directories under `root` whose spool has more than their server, parents before children."""
    found = [path.parent.parent for path in root.rglob("tracking/run.json")]
    return sorted((d for d in found if _behind(d)), key=lambda d: (read_identity(d).parent_key is not None, d))


def _behind(run_dir: Path) -> bool:
    mark = read_mark(run_dir)
    if mark.run_id and mark.parent_id is None and read_identity(run_dir).parent_key is not None:
        return True
    return has_news(run_dir, mark)


def has_news(run_dir: Path, mark: Mark) -> bool:
    """Say whether the spool has a whole line beyond the mark."""
    return next(read_lines(run_dir, mark.offset), None) is not None


class Batch(NamedTuple):
    """Lines that go together, and the offset of their end. Only metrics and tags come several at a time."""

    kind: str
    contents: list[dict[str, Any]]
    end: int


VALUES, BATCH_TAGS = ("metrics", "tag"), 50


def batches(lines: Iterator[Line]) -> Iterator[Batch]:
    """Group neighbouring metrics and tags, whosever they are, up to BATCH_POINTS; everything else stays alone."""
    contents: list[dict[str, Any]] = []
    size = end = 0
    for line in lines:
        content = line.content or {"kind": "damaged"}
        grows = content["kind"] in VALUES
        more = _size(content) if grows else 0
        if contents and (not grows or size + more > BATCH_POINTS):
            yield Batch("values", contents, end)
            contents, size = [], 0
        if grows:
            contents, size, end = [*contents, content], size + more, line.end
        else:
            yield Batch(content["kind"], [content], line.end)
    if contents:
        yield Batch("values", contents, end)


def _size(content: dict[str, Any]) -> int:
    """Count what a line adds to a call; a server takes 100 tags a call, and 1000 points."""
    return len(content["values"]) if content["kind"] == "metrics" else BATCH_POINTS // BATCH_TAGS


def drain(run_dir: Path, destination: Destination) -> ReplayReport:
    """Bring everything there is, once; a fault ends it and is reported, never raised.

    Raises:
        BlockingIOError: another thread or process is bringing this run.
    """
    report = ReplayReport()
    with _alone(run_dir):
        try:
            mark = destination.attach(read_mark(run_dir))
            _write_mark(run_dir, mark)
            for batch in batches(read_lines(run_dir, mark.offset)):
                report += _brought(run_dir, destination, batch)
                mark = mark.model_copy(update={"offset": batch.end})
                _write_mark(run_dir, mark)
        except Exception as error:  # whatever a server or a disk does, training goes on
            return report + ReplayReport(error=redact(" ".join(f"{error}".split())) or type(error).__name__)
    return report


def _brought(run_dir: Path, destination: Destination, batch: Batch) -> ReplayReport:
    try:
        return _counted(batch, _send(run_dir, destination, batch))
    except RefusedError as refusal:
        if len(batch.contents) > 1:  # the others are not to blame
            alone = (_brought(run_dir, destination, Batch(batch.kind, [c], batch.end)) for c in batch.contents)
            return sum(alone, ReplayReport())
        _log.warning("warning: the tracking server refuses a line of %s: %s", run_dir, refusal)
        return _counted(batch, False)


def _send(run_dir: Path, destination: Destination, batch: Batch) -> bool:
    first = batch.contents[0]
    match batch.kind:
        case "values":
            for of in dict.fromkeys(content.get("attempt") for content in batch.contents):
                own = [content for content in batch.contents if content.get("attempt") == of]
                tags = {content["name"]: content["value"] for content in own if content["kind"] == "tag"}
                destination.values([point for content in own for point in _points(content)], tags, of)
        case "config":
            destination.config(first["values"])
        case "attempt":
            destination.attempt(first["attempt"], first["facts"], first["t"])
        case "inputs":
            destination.inputs(first["datasets"])
        case "artifact":
            path = Path(first["path"])
            file = run_dir / "tracking" / "artifacts" / path
            if not file.is_file():
                return False
            destination.artifact(file, "" if path.parent == Path() else path.parent.as_posix())
        case "status":
            destination.status(first["status"], first["t"], first.get("attempt"))
        case _:
            return False
    return True


def _points(content: dict[str, Any]) -> list[Point]:
    values = content["values"] if content["kind"] == "metrics" else {}
    return [Point(name, value, content["t"], content["step"]) for name, value in values.items()]


def _counted(batch: Batch, taken: bool) -> ReplayReport:
    lines = len(batch.contents)
    if not taken:
        return ReplayReport(lines=lines, skipped=lines)
    points = sum(len(_points(content)) for content in batch.contents) if batch.kind == "values" else 0
    return ReplayReport(lines=lines, points=points, artifacts=int(batch.kind == "artifact"))


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Two that bring the same run at once could create it twice; the system frees the lock of a dead process."""
    with (run_dir / "tracking" / ".replay.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _write_mark(run_dir: Path, mark: Mark) -> None:
    replace_text(run_dir / "tracking" / "replayed.json", json.dumps(to_dict(mark)))


def bring(run_dir: Path, destination: Destination, *, timeout_s: float = 60.0, pause_s: float = 0.2) -> ReplayReport:
    """Drain until the server has everything; give up after PATIENCE failures in a row without a line brought."""
    total, failures, deadline = ReplayReport(), 0, time.monotonic() + timeout_s
    while True:
        try:
            report = drain(run_dir, destination)
        except BlockingIOError:
            report = ReplayReport(error="another process is bringing it")
        else:
            failures = 0 if report.lines else failures + 1
        total += report
        if total.complete or failures >= PATIENCE or time.monotonic() > deadline:
            return total
        time.sleep(pause_s)

"""The spool: what a run writes down, on disk first. One JSON object a line; no server is known here.

`tracking/spool.jsonl` grows by whole lines, each in one write, so it survives a SIGKILL of its writer (not a power
loss: nothing is synced). `tracking/artifacts/` holds a copy of every artifact, `tracking/run.json` says whose it is.
A point's time is fixed when it is written, so that a server can tell a replayed point from a new one. A line with an
`attempt` belongs to the run of that attempt, a child of the run whose spool this is.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rayseg.errors import ClusterError, UsageError
from rayseg.tracking import Dataset, Ending, Status
from rayseg.tracking.identity import replace_text
from rayseg.tracking.names import named, valid_name
from rayseg.tracking.redact import redact

Of = int | None
"""Whose a line is: an attempt's, by its number, or None, the run's."""


class Line(NamedTuple):
    """One line of the spool and the offset of its end; `content` is None where it is not JSON."""

    end: int
    content: dict[str, Any] | None


def read_lines(run_dir: Path, offset: int = 0) -> Iterator[Line]:
    """Read the whole lines from byte `offset` on; a line still being written is left for the next time."""
    try:
        file = (run_dir / "tracking" / "spool.jsonl").open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield Line(offset, _decoded(raw))


def _decoded(raw: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except ValueError:  # a power loss leaves blocks of zeros
        return None
    return content if isinstance(content, dict) and "kind" in content else None


class _Written:
    """What the spool holds already, so that a resumed attempt does not say it twice."""

    def __init__(self) -> None:
        self.steps: defaultdict[tuple[Of, str], set[int]] = defaultdict(set)
        self.tags: dict[tuple[Of, str], str] = {}
        self.statuses: dict[Of, str] = {}
        self.config: dict[str, Any] | None = None
        self.artifacts: dict[str, str] = {}
        self.datasets: list[Any] | None = None
        self.attempts: set[int] = set()

    def note(self, content: Mapping[str, Any]) -> None:
        of = content.get("attempt")
        match content["kind"]:
            case "metrics":
                for name in content["values"]:
                    self.steps[of, name].add(content["step"])
            case "config":
                self.config = content["values"]
            case "artifact":
                self.artifacts[content["path"]] = content["sha256"]
            case "tag":
                self.tags[of, content["name"]] = content["value"]
            case "inputs":
                self.datasets = content["datasets"]
            case "attempt":
                self.attempts.add(content["attempt"])
            case "status":
                self.statuses[of] = content["status"]


_GOES_ON = ("config", "input", "metrics")
"""What a run that was over says when it goes on; a picture or a tag may come later without that."""


class SpoolTracker:
    """Writes a run down in its directory; a restarted attempt goes on in the same spool.

    A step that a resumed attempt does again makes no second point: the first value of a (name, step) stands.
    `on_close` is called once, after the last line. One process at a time writes a run's spool; its threads may all.

    Raises:
        ClusterError: from every call, when the disk is full or read-only; the lines before are whole.
    """

    def __init__(
        self, run_dir: Path, *, clock: Callable[[], float] = time.time, on_close: Callable[[], None] | None = None
    ) -> None:
        self._folder, self._clock, self._on_close = run_dir / "tracking", clock, on_close
        self._path, self._closed = self._folder / "spool.jsonl", False
        self._written, self._lock = _Written(), threading.RLock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                _seal(file.fileno())
        except OSError as error:
            raise self._failed("the spool", error) from None
        for line in read_lines(run_dir):
            if line.content is not None:
                self._written.note(line.content)

    @property
    def open(self) -> bool:
        """Whether the run is not over, as far as the spool was read or written."""
        return self._written.statuses.get(None) in (None, "RUNNING")

    def config(self, resolved: Mapping[str, Any]) -> None:
        """Write down the resolved config, without secrets, also as the artifact `config.json`."""
        plain = redact(resolved)
        if plain == self._written.config:
            return
        copy = self._folder / "config.json"
        try:
            replace_text(copy, json.dumps(plain, indent=1))
        except OSError as error:
            raise self._failed("config.json", error) from None
        self._append("config", values=plain)
        self.artifact(copy)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append the points that (name, `step`) has none of yet."""
        self._points(None, values, step)

    def artifact(self, source: Path, folder: str = "") -> None:
        """Copy a file to the run's artifacts; one of the same name and content is left."""
        path = PurePosixPath(folder, source.name)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"artifact folder '{folder}'", self._folder, "name a folder inside the run's artifacts")
        try:
            sha256 = _copy(source, self._folder / "artifacts" / path)
        except OSError as error:
            raise self._failed(f"the artifact {path}", error) from None
        if self._written.artifacts.get(str(path)) != sha256:
            self._append("artifact", path=str(path), sha256=sha256)

    def tag(self, name: str, value: str) -> None:
        """Set a tag, without secrets."""
        self._tag(None, name, value)

    def inputs(self, datasets: Sequence[Dataset]) -> None:
        """Write down what the run reads, without secrets."""
        plain = [redact(dataset._asdict()) for dataset in datasets]
        if plain != self._written.datasets:
            self._append("inputs", datasets=plain)

    def attempt(self, number: int, facts: Mapping[str, str]) -> None:
        """Begin an attempt, with what is fixed about it, without secrets."""
        if number not in self._written.attempts:
            if not self.open:
                self._append("status", status="RUNNING")
            self._append("attempt", number, facts=redact(facts))

    def attempt_metrics(self, number: int, values: Mapping[str, float], sample: int) -> None:
        """Append the points that (name, `sample`) of the attempt has none of yet."""
        self._points(number, values, sample)

    def attempt_over(self, number: int, ending: Ending) -> None:
        """Say how an attempt ended; the first word stands, and of one that was never begun there is none."""
        if number not in self._written.attempts or number in self._written.statuses:
            return
        self._points(number, ending.figures, ending.step)
        self._tag(number, "stopped", ending.why)
        at = {"t": int(ending.ended_s * 1000)} if ending.ended_s is not None else {}
        self._append("status", number, status=ending.status, **at)

    def close(self, status: Status) -> None:
        """Say how the run ended; only the first call of an attempt counts."""
        if self._closed:
            return
        self._closed = True
        if self._written.statuses.get(None) != status:
            self._append("status", status=status)
        if self._on_close is not None:
            self._on_close()

    def _points(self, of: Of, values: Mapping[str, float], step: int) -> None:
        with self._lock:
            steps = self._written.steps
            new = {name: value for name, value in named(values).items() if step not in steps[of, name]}
            if new:
                self._append("metrics", of, step=int(step), values=new)

    def _tag(self, of: Of, name: str, value: str) -> None:
        name, value = valid_name(name), redact({name: value})[name]
        if self._written.tags.get((of, name)) != value:
            self._append("tag", of, name=name, value=value)

    def _append(self, kind: str, of: Of = None, **fields: Any) -> None:
        with self._lock:
            if of is None and kind in _GOES_ON and not self.open:
                self._append("status", status="RUNNING")
            whose = {} if of is None else {"attempt": of}
            content = {"kind": kind, "t": int(self._clock() * 1000), **whose, **fields}
            try:
                _append(self._path, (json.dumps(content) + "\n").encode())
            except OSError as error:
                raise self._failed("the spool", error) from None
            self._written.note(content)

    def _failed(self, what: str, error: OSError) -> ClusterError:
        return ClusterError(f"cannot write {what}: {error}", self._folder, "make room, then run the same again")


def _append(path: Path, line: bytes) -> None:
    """Add a line in one write. Opened anew for each: nothing to leak, and a shared file system passes it on at once."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) != len(line):
            file.truncate(before)
            raise OSError("no room for a whole line")


def _seal(descriptor: int) -> None:
    """End a line that a crash tore: it is skipped as damaged then, and the next one stands whole."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    digest = hashlib.sha256()
    with source.open("rb") as read, partial.open("wb") as write:
        while block := read.read(1 << 20):
            digest.update(block)
            write.write(block)
    partial.replace(target)
    return digest.hexdigest()

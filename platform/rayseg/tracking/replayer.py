"""The thread that brings a run's spool to its server beside training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from rayseg.tracking.replay import Destination, bring, drain, has_news, read_mark

_log = logging.getLogger("rayseg.tracking")


class Replayer(threading.Thread):
    """Brings a run's spool to its server beside training, and says once when the server is away.

    `connect` is called in the thread, so that slow imports do not delay training.
    """

    def __init__(
        self,
        run_dir: Path,
        connect: Callable[[], Destination],
        *,
        period_s: float = 1.0,
        longest_pause_s: float = 15.0,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        super().__init__(name=f"replay {run_dir.name}", daemon=True)
        self._run_dir, self._connect, self._warn = run_dir, connect, warn
        self._period_s, self._longest_pause_s = period_s, longest_pause_s
        self._closing = threading.Event()
        self._warned = False

    def run(self) -> None:
        """Bring new lines every `period_s`, less often while the server is away, and the rest at the end."""
        try:
            destination = self._connect()
            failures = 0
            while not self._closing.wait(min(self._period_s * 2**failures, self._longest_pause_s)):
                error = self._tick(destination)
                failures = min(failures + 1, 10) if error else 0
                if error and failures > 1:
                    self._say(error)
            report = bring(self._run_dir, destination)
            if report.error is not None:
                self._say(report.error)
        except Exception as error:  # never into training
            self._say(f"{type(error).__name__}: {error}")

    def finish(self) -> None:
        """Ask it to bring what is left and end; returns at once."""
        self._closing.set()

    def close(self, timeout_s: float) -> None:
        """Ask it to end and wait so long for it; what it has not brought by then stays in the spool."""
        self.finish()
        self.join(timeout_s)

    def _tick(self, destination: Destination) -> str | None:
        if not has_news(self._run_dir, read_mark(self._run_dir)):
            return None
        try:
            report = drain(self._run_dir, destination)
        except BlockingIOError:
            return None
        return None if report.lines else report.error

    def _say(self, error: str) -> None:
        if not self._warned:
            self._warned = True
            kept = self._run_dir / "tracking"
            self._warn(f"warning: the tracking server does not take it ({error[:150]}); everything is kept in {kept}")

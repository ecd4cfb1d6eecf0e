"""The table that a sweep shows while it runs on a terminal: one row a trial, those that run first, the best marked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from rayseg.sweep.board import Board, Entry, Event, Left
from rayseg.sweep.foresight import Foresight
from rayseg.sweep.lines import EXPECTED, Lines
from rayseg.sweep.trial import Trial, labels, short
from rayseg.train.progress import duration

Tell = Callable[[Event], None]
STYLES = {"runs": "bold", "paused": "yellow", "finished": "", "stopped": "dim", "failed": "red", "known": "cyan"}
AROUND = 6
"""Lines of the terminal that are not rows of trials: title, header, what is left out, explanation, cursor."""


@contextmanager
def telling(
    trials: Sequence[Trial],
    *,
    left: Mapping[str, int],
    best: tuple[float, str] | None,
    show: Callable[[str], None],
    title: str = "",
    total: int | None = None,
    foresight: Foresight | None = None,
    console: Console | None = None,
) -> Iterator[Tell]:
    """Give what hears of events: a live table where stdout is a terminal, else a line per event.

    While the table is there, what is printed scrolls above it; at the end its last state stays.
    """
    console = console or Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(trials, left=left, best=best, show=show, total=total, foresight=foresight).tell
        return
    live = Live(Board(trials, left=left, best=best, total=total), title=title, foresight=foresight)
    with Screen(get_renderable=lambda: live.drawn(console.height), console=console, refresh_per_second=2):
        yield live.tell


class Live:
    """The table's state; `drawn` may be called by another thread than `tell`."""

    def __init__(self, board: Board, *, title: str = "", foresight: Foresight | None = None) -> None:
        self.board, self.title, self.foresight = board, title, foresight
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Take in one event."""
        with self._lock:
            self.board.take(event)
        if self.foresight is not None:
            self.foresight.take(event)

    def drawn(self, height: int) -> RenderableType:
        """Draw the table for a terminal of so many lines."""
        with self._lock:
            entries = ordered(list(self.board.entries.values()))
            shown, hidden = entries[: max(height - AROUND, 1)], entries[max(height - AROUND, 1) :]
            table = self._table(shown)
            return Group(self._head(), table, *self._foot(hidden))

    def _head(self) -> Text:
        board, left = self.board, self._left()
        best = f"  best {board.best[0]:.3f} ({board.best[1]})" if board.best is not None else ""
        spent = duration(board.clock() - board.began)
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(self.title, style="bold").append(f"  {board.progress()}{best}  {spent} so far  eta ")
        return head.append("?" if left is None else str(left), style="bold")

    def _left(self) -> Left | None:
        return self.foresight.left() if self.foresight is not None else self.board.pace_left()

    def _table(self, entries: Sequence[Entry]) -> Table:
        names = list(dict.fromkeys(name for entry in entries for name in entry.trial.point))
        table = Table(box=None, pad_edge=False, header_style="underline", expand=False)
        table.add_column("trial", no_wrap=True)
        for label in labels(names).values():
            table.add_column(label, justify="right", no_wrap=True, overflow="ellipsis")
        for name in ("step", "mIoU", "best", "eta"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("state")  # the only one that gives way where the terminal is narrow
        for entry in entries:
            values = [short(entry.trial.point[name]) if name in entry.trial.point else "" for name in names]
            first = self.board.best is not None and self.board.best[1] == entry.trial.key
            style = f"{STYLES[entry.state]} green" if first else STYLES[entry.state]
            table.add_row(*self._cells(entry, values, marked=first), style=style.strip())
        return table

    def _cells(self, entry: Entry, values: Sequence[str], *, marked: bool) -> list[str | Text]:
        left_s = self.foresight.left_of(entry.trial.key) if self.foresight and entry.state == "runs" else None
        return [
            f"{'*' if marked else ' '}{entry.trial.number:3d} {entry.trial.key}",
            *values,
            f"{entry.step}/{entry.trial.config.train.steps}" if entry.state != "known" else "",
            f"{entry.miou:.3f}" if entry.miou >= 0 else "",
            f"{entry.best:.3f}" if entry.best >= 0 else "",
            duration(left_s) if left_s is not None else "",
            Text(said(entry), no_wrap=True, overflow="ellipsis"),
        ]

    def _foot(self, hidden: Sequence[Entry]) -> list[Text]:
        foot = []
        if hidden:
            counts = {state: sum(entry.state == state for entry in hidden) for state in STYLES}
            listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            foot.append(Text(f"... and {len(hidden)} more: {listed}", style="dim"))
        left = self._left()
        if left is not None and not left.sure:
            foot.append(Text(EXPECTED, style="dim", no_wrap=True, overflow="ellipsis"))
        return foot


def said(entry: Entry) -> str:
    """Say a trial's state, and why."""
    return entry.reason if entry.reason.startswith(entry.state) else f"{entry.state}  {entry.reason}".rstrip()


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Put trials that run first, in the order of their numbers, then the others, the best first."""

    def place(entry: Entry) -> tuple[Any, ...]:
        runs = entry.state == "runs"
        return (not runs, 0.0 if runs else -entry.best, entry.trial.number)

    return sorted(entries, key=place)

"""What a sweep says while it runs where there is no terminal: one line per event, with the best so far and an ETA."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rayseg.sweep.board import Board, Entry, Event
from rayseg.sweep.foresight import Foresight
from rayseg.sweep.trial import Trial, describe

__all__ = ["Event", "Lines"]

EXPECTED = "eta: expected is the rest played on average by the search's own rule; at most, if nothing more is stopped"


class Lines:
    """Turns events into lines; the arguments are those of `Board`.

    Without `foresight` the ETA takes every trial to its last step, so under ASHA it is an upper bound.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        left: Mapping[str, int],
        best: tuple[float, str] | None,
        show: Callable[[str], None],
        total: int | None = None,
        foresight: Foresight | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.board = Board(trials, left=left, best=best, total=total, clock=clock)
        self.show, self.foresight, self.explained = show, foresight, False

    def tell(self, event: Event) -> None:
        """Show one event."""
        entry = self.board.take(event)
        if self.foresight is not None:
            self.foresight.take(event)
        said = self._said(event, entry)
        self.show(f"[{self.board.progress()}] {event.trial.key} {said}")

    def _said(self, event: Event, entry: Entry) -> str:
        if event.kind == "start":
            return "  ".join(filter(None, [f"starts   {describe(event.trial.point)}", event.figures.get("note", "")]))
        if event.kind == "known":
            return f"known    mIoU {entry.miou:.3f}  {describe(event.trial.point)}  {entry.reason}"
        if event.kind != "result":
            return f"{event.kind}  {entry.reason}".rstrip()
        assert self.board.best is not None
        best, key = self.board.best
        loss = f"loss {event.figures['loss']:.3f}  " if "loss" in event.figures else ""
        return (
            f"step {entry.step}/{event.trial.config.train.steps}  {loss}"
            f"mIoU {entry.miou:.3f}  best {best:.3f} ({key})  eta {self.eta()}"
        )

    def eta(self) -> str:
        """Give the time left."""
        left = self.foresight.left() if self.foresight is not None else self.board.pace_left()
        if left is not None and not left.sure and not self.explained:
            self.explained = True
            self.show(EXPECTED)
        return "?" if left is None else str(left)

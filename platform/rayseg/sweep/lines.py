"""What a sweep says while it runs: one line per event, with the best so far and an ETA."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayseg.sweep.trial import Trial, describe
from rayseg.train.progress import duration


class Event(NamedTuple):
    """Something that happened to a trial: `start`, `result`, `finished`, `stopped` or `failed`."""

    kind: str
    trial: Trial
    figures: Mapping[str, Any]


class Lines:
    """Turns events into lines. The ETA takes every trial to its last step, so under ASHA it is an upper bound.

    `left` says how many steps each trial of this attempt still has to do; trials that are over are not in it. `best`
    is the best mIoU of earlier attempts and its trial's key.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        left: Mapping[str, int],
        best: tuple[float, str] | None,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.over = len(trials), len(trials) - len(left)
        self.left, self.best = dict(left), best
        self.show, self.clock = show, clock
        self.done_here = 0
        self.began = clock()

    def tell(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "start":
            said = f"starts   {describe(event.trial.point)}"
        elif event.kind == "result":
            said = self._result(event.trial, event.figures)
        else:
            self.over += 1
            self.left[event.trial.key] = 0
            said = f"{event.kind}  {event.figures.get('reason') or ''}".rstrip()
        self.show(f"[{self.over:{len(str(self.total))}}/{self.total} done] {event.trial.key} {said}")

    def _result(self, trial: Trial, figures: Mapping[str, Any]) -> str:
        steps = trial.config.train.steps
        left = steps - figures["step"]
        self.done_here += self.left[trial.key] - left
        self.left[trial.key] = left
        if self.best is None or figures["best_miou"] > self.best[0]:
            self.best = (figures["best_miou"], trial.key)
        return (
            f"step {figures['step']}/{steps}  loss {figures['loss']:.3f}  mIoU {figures['miou']:.3f}  "
            f"best {self.best[0]:.3f} ({self.best[1]})  eta {self.eta()}"
        )

    def eta(self) -> str:
        """Give the time left at the pace of this attempt."""
        pace = self.done_here / max(self.clock() - self.began, 1e-9)
        return duration(sum(self.left.values()) / pace) if pace > 0 else "?"

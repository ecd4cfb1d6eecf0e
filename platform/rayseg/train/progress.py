"""One line of progress with an ETA."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Progress:
    """Says `step 40/200  loss 1.234  12.3 img/s  eta 1:23` to `show`, and knows the pace."""

    def __init__(
        self,
        *,
        start: int,
        steps: int,
        batch: int,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.start, self.steps, self.batch, self.show, self.clock = start, steps, batch, show, clock
        self.began = self.lap = clock()

    def seconds(self) -> float:
        """Give the seconds since the last call, or since the start."""
        before, self.lap = self.lap, self.clock()
        return self.lap - before

    def samples_per_s(self, step: int) -> float:
        """Give the pace since the start of this attempt, evaluation included."""
        return (step - self.start) * self.batch / max(self.clock() - self.began, 1e-9)

    def say(self, step: int, figures: Mapping[str, float]) -> None:
        """Show one line for `step` updates done."""
        pace = self.samples_per_s(step)
        left_s = (self.steps - step) * self.batch / max(pace, 1e-9)
        parts = [f"{name} {value:.4g}" for name, value in figures.items()]
        self.show("  ".join([f"step {step}/{self.steps}", *parts, f"{pace:.1f} img/s", f"eta {duration(left_s)}"]))


def duration(seconds: float) -> str:
    """Write seconds as `1:23` or `2:01:23`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Steps:
    """Counts to a total and says `sharding camvid  120/468  eta 0:05` at every tenth of the way."""

    def __init__(self, title: str, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.show, self.clock = title, show, clock
        self.began = clock()
        self.tenth = -1

    def tick(self, done: int, total: int) -> None:
        """Take in that `done` of `total` are done."""
        tenth = 10 * done // max(total, 1)
        if tenth == self.tenth:
            return
        self.tenth = tenth
        left_s = (self.clock() - self.began) * (total - done) / max(done, 1)
        self.show(f"{self.title}  {done}/{total}" + (f"  eta {duration(left_s)}" if 0 < done < total else ""))

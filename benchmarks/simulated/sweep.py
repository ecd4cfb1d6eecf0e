"""A sweep on paper: trials on spot GPUs that are taken away, and the three desks to which all of them send work."""

from __future__ import annotations

import heapq
import random
from typing import NamedTuple


class Figures(NamedTuple):
    """What one piece of work takes, and how often it comes."""

    step_s: float
    steps: int = 20_000
    eval_every: int = 500
    log_every: int = 10
    points_per_line: int = 6
    bytes_per_line: float = 250.0
    commit_mib: float = 361.0
    report_s: float = 0.002
    points_per_s: float = 1000.0
    storage_mib_s: float = 300.0
    mtbf_h: float = 8.0
    recovery_s: float = 180.0

    @property
    def points_per_eval(self) -> float:
        """Count the points between two evaluations."""
        return self.eval_every / self.log_every * self.points_per_line


class Desk:
    """Serves one piece of work after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.free_at = self.busy_s = self.longest_wait_s = 0.0

    def take(self, now: float, work_s: float) -> None:
        """Queue a piece of work that arrives now."""
        begins = max(now, self.free_at)
        self.longest_wait_s = max(self.longest_wait_s, begins - now)
        self.busy_s += work_s
        self.free_at = begins + work_s


class Played(NamedTuple):
    """How a sweep went: `kept` and `redone` steps over all GPUs, how often GPUs were taken away, and the desks."""

    wall_s: float
    kept: int
    redone: int
    taken_away: int
    desks: tuple[Desk, ...]

    def load(self, desk: Desk) -> float:
        """Give the work that came to a desk, in seconds a second."""
        return desk.busy_s / self.wall_s


def lengths(trials: int, steps: int, eval_every: int, chance: random.Random) -> list[int]:
    """Draw how many steps each trial does: all of them, or half as often twice as few, down to one evaluation."""
    found = []
    for _ in range(trials):
        length = steps
        while length > eval_every and chance.random() < 0.5:
            length //= 2
        found.append(max(eval_every, length // eval_every * eval_every))
    return found


def play(figures: Figures, *, trials: int, gpus: int, seed: int = 0) -> Played:
    """Run the sweep on paper."""
    chance = random.Random(seed)
    left = lengths(trials, figures.steps, figures.eval_every, chance)[::-1]
    desks = head, server, storage = Desk("head"), Desk("tracking server"), Desk("storage")
    period_s = figures.eval_every * figures.step_s
    kept = redone = taken_away = 0
    wall_s = 0.0
    # A GPU stands for its next moment: when, which, and the steps its trial still has to do.
    moments = [(chance.random() * period_s, gpu, 0) for gpu in range(gpus)]
    heapq.heapify(moments)
    while moments:
        now, gpu, to_do = heapq.heappop(moments)
        if not to_do:
            if not left:
                continue
            to_do = left.pop()
        if (lost_s := chance.expovariate(1 / (figures.mtbf_h * 3600))) < period_s:
            taken_away += 1
            redone += int(lost_s / figures.step_s)
            heapq.heappush(moments, (now + lost_s + figures.recovery_s, gpu, to_do))
            continue
        then = now + period_s
        kept += figures.eval_every
        head.take(then, figures.report_s)
        server.take(then, figures.points_per_eval / figures.points_per_s)
        storage.take(then, figures.commit_mib / figures.storage_mib_s)
        wall_s = max(wall_s, then)
        heapq.heappush(moments, (then, gpu, to_do - figures.eval_every))
    return Played(wall_s, kept, redone, taken_away, desks)


def full_at(figures: Figures) -> dict[str, float]:
    """Say at how many GPUs each desk is full."""
    period_s = figures.eval_every * figures.step_s
    work_s = {
        "the head": figures.report_s,
        "the tracking server": figures.points_per_eval / figures.points_per_s,
        "storage": figures.commit_mib / figures.storage_mib_s,
    }
    return {name: period_s / each for name, each in work_s.items()}

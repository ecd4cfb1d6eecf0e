"""A sweep's verdict handed on: to its run at the tracker, and a winner to the registry as the champion."""

from __future__ import annotations

from collections.abc import Callable

from rayseg.cluster.attempt import Attempt, Sweeping
from rayseg.cluster.finals import interval, nearest
from rayseg.sweep.judged import PLACE, Judged
from rayseg.tracking import Tracker, registry
from rayseg.tracking.registry import Champion

Show = Callable[[str], None]


def propose(attempt: Attempt, judged: Judged, tracker: Tracker) -> None:
    """Hand the verdict to the sweep's run, and write a winner down as the champion to register."""
    folder, parent = attempt.sweeping.folder, attempt.sweeping.parent
    tracker.artifact(folder / PLACE)
    tracker.tag("verdict", judged.verdict)
    if not judged.winner:
        registry.withdraw(folder)
        return
    best, near = judged.finalists[0], nearest(judged.pairs)
    tags = {
        "sweep": folder.name,
        "trial": best.key,
        "miou": f"{best.mean:.4f}",
        "miou_spread": f"{best.spread or 0.0:.4f}",
        "seeds": " ".join(map(str, best.seeds)),
        "lead": f"{interval(near)} over {near.other}",
        "images": str(judged.images),
    }
    registry.propose(folder, Champion(name=parent.experiment, run=f"trials/{best.trials[0]}", tags=tags))


def register(sweeping: Sweeping, show: Show) -> None:
    """Register the sweep's winner; where no server is up `rayseg up` does it."""
    pending = "the champion is registered once MLflow is up: rayseg up"
    show(registry.register(sweeping.folder, sweeping.uri) if sweeping.uri else pending)

"""`--warm-start`: what earlier sweeps at the tracking server say of this one's points."""

from __future__ import annotations

from collections.abc import Sequence

from rayseg.cluster import home
from rayseg.errors import ClusterError
from rayseg.sweep import memory
from rayseg.sweep.journal import Story
from rayseg.sweep.memory import Remembered
from rayseg.sweep.trial import Base, Trial
from rayseg.tracking.history import earlier


def recalled(made: Sequence[Trial], base: Base, data: str, *, asked: bool, story: Story | None) -> list[Remembered]:
    """Ask the tracking server; a resumed sweep asks its journal, so that it knows no more and no less than before.

    Raises:
        ClusterError: no server is there.
    """
    if story is not None:
        return memory.again(story.plan.get("known", ()), base)
    if not asked:
        return []
    uri = home.tracking_uri()
    if uri is None:
        raise ClusterError("MLflow is not up, and earlier runs are read from it", "--warm-start", "start it: rayseg up")
    return memory.remember(earlier(uri, {memory.DATA: data}, memory.CURVES), made, base, data)

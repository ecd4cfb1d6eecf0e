"""`--warm-start`: what earlier sweeps at the tracking server say of this one's points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rayseg.cluster import home
from rayseg.config import DataConfig
from rayseg.data import cursor
from rayseg.data.reader import ShardSet, open_shards
from rayseg.errors import ClusterError
from rayseg.sweep import memory
from rayseg.sweep.journal import Story
from rayseg.sweep.memory import Remembered
from rayseg.sweep.trial import Base, Trial
from rayseg.tracking.history import earlier


class Samples(NamedTuple):
    """What all runs of a sweep train on and are judged by; `digest` is the same for two folders of the same samples."""

    train: ShardSet
    val: ShardSet
    digest: str


def opened(data: DataConfig, card: str | None) -> Samples:
    """Open both splits, once for all that is to be known of them.

    Raises:
        DataError: no such shards or split.
        UsageError: they are not of the card that was asked for.
    """
    train, val = (open_shards(data.shards, split, data.remote) for split in (data.train_split, data.val_split))
    home.check_card(card, val.card.name)
    return Samples(train, val, memory.data_digest(cursor.digest(train.index), cursor.digest(val.index)))


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

"""What a run reads, as its tracker keeps it: the card, and a hash of the index of each split."""

from __future__ import annotations

from rayseg.data import cursor
from rayseg.data.reader import ShardSet
from rayseg.tracking import Dataset, Tracker

CONTEXTS = ("train", "validation")


def tell(tracker: Tracker, train: ShardSet, val: ShardSet) -> None:
    """Say which splits a run trains on and is judged by, as inputs and as tags."""
    datasets = [_dataset(split, context) for split, context in zip((train, val), CONTEXTS, strict=True)]
    tracker.inputs(datasets)
    tracker.tag("dataset", train.card.name)
    for dataset in datasets:
        tracker.tag(f"dataset.{dataset.context}", f"{dataset.samples} samples, index {dataset.digest}")


def _dataset(split: ShardSet, context: str) -> Dataset:
    return Dataset(
        name=split.card.name,
        digest=cursor.digest(split.index),
        source=str(split.folder),
        context=context,
        samples=len(split),
        classes=split.num_classes,
    )

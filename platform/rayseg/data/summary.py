"""What a folder of shards holds, told from its index alone: nothing is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rayseg.data import audit, index, manifest
from rayseg.data.index import Index
from rayseg.schema import Value


class SplitSummary(Value):
    """One split. Shares are of all its pixels, the ignored ones included, so they add up to 1 with `ignore_share`."""

    samples: int
    shards: int
    bytes: int
    sizes: dict[str, int]
    """How many samples there are of each `height x width`, the most frequent first."""
    class_shares: dict[str, float]
    ignore_share: float


class Summary(Value):
    """A folder: its card's title and licence, its splits in the card's order, what is odd, and where its page lies."""

    name: str
    title: str
    licence: str
    splits: dict[str, SplitSummary]
    warnings: tuple[str, ...]
    page: str


def summary(folder: str | Path) -> Summary:
    """Summarise a folder of shards.

    Raises:
        DataError: no such folder, or its index is not as it was written.
    """
    whole = manifest.read(Path(folder))
    table, card = index.read(Path(folder), whole), whole.card
    chosen = {name: np.isin(table.split.astype(str), card.members(name)) for name in card.splits}
    splits = {name: _of_split(table.where(rows), card.class_names) for name, rows in chosen.items()}
    return Summary(
        name=card.name,
        title=card.title,
        licence=card.licence,
        splits=splits,
        warnings=audit.warnings(table, card, whole.samples),
        page=str(Path(folder) / manifest.PAGE),
    )


def _of_split(rows: Index, class_names: tuple[str, ...]) -> SplitSummary:
    *shares, ignored = (rows.class_pixels.sum(0) / rows.class_pixels.sum()).tolist()
    sizes, counts = np.unique(np.stack([rows.height, rows.width], 1), axis=0, return_counts=True)
    return SplitSummary(
        samples=len(rows),
        shards=len(set(rows.shard)),
        bytes=int(rows.image_size.sum() + rows.mask_size.sum()),
        sizes={f"{sizes[i][0]}x{sizes[i][1]}": int(counts[i]) for i in np.argsort(-counts, kind="stable")},
        class_shares=dict(zip(class_names, shares, strict=True)),
        ignore_share=ignored,
    )

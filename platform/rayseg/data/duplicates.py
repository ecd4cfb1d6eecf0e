"""Duplicates: pictures that are in a data set more than once, whatever their files are called or coded like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rayseg.data.index import Index


class Group(NamedTuple):
    """The rows that show one picture, in the order of the table; their splits; whether their masks count otherwise."""

    rows: tuple[int, ...]
    splits: tuple[str, ...]
    masks_differ: bool


def find(table: Index) -> list[Group]:
    """Find pictures with equal pixels, in the order of their first occurrence."""
    _, group = np.unique(table.pixels_sha256, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)
    return sorted(_group(table, part.tolist()) for part in parts if len(part) > 1)


def by_place(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Sort them by where they are: `train` for within that split, `train and val` for across them."""
    places: dict[str, list[Group]] = {}
    for group in groups:
        places.setdefault(" and ".join(group.splits), []).append(group)
    return dict(sorted(places.items(), key=lambda item: " " not in item[0]))


def example(group: Group, table: Index) -> tuple[int, int]:
    """Choose two rows of it, of two splits where there are two."""
    first = group.rows[0]
    others = [row for row in group.rows[1:] if table.split[row] != table.split[first]]
    return first, (others or group.rows[1:])[0]


def named(group: Group, table: Index) -> str:
    """Name two of its samples, and how many more there are."""
    names = " and ".join(f"{table.split[row]}/{table.key[row]}" for row in example(group, table))
    return names + (f" and {len(group.rows) - 2} more" if len(group.rows) > 2 else "")


def _group(table: Index, rows: list[int]) -> Group:
    splits = tuple(dict.fromkeys(str(table.split[row]) for row in rows))
    return Group(tuple(rows), splits, len({table.class_pixels[row].tobytes() for row in rows}) > 1)

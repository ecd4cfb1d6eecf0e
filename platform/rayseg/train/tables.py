"""Class by class: a run's IoU, recall and boundary scores as a table, and how far they are from another run's."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayseg.train import charts
from rayseg.train.evaluation import Evaluation
from rayseg.train.scorecard import excluded, per_class

PER_CLASS, DIFFERENCE, BARS = "per_class.csv", "per_class_difference.csv", "per_class_difference.png"
_NAMES = {"IoU": "iou", "bIoU": "boundary_iou"}


def columns(seen: Evaluation, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Give the table's columns, each (C,): iou, recall, boundary_iou, f1_3px and the like, images, pixels.

    NaN where a figure is not defined; of a class that never occurs nothing is, although the boundary protocol counts
    it as 1 on every image.
    """
    never = np.isin(names, excluded(seen, names)[0])
    found = {}
    for name, values in per_class(seen).items():
        plain = _NAMES.get(name, name.lower().replace(" ", "_"))
        plain = f"f1_{plain}" if plain.endswith("px_present") else plain
        found[plain] = np.where(never, np.nan, values) if values.dtype.kind == "f" else values
    return found


def write(path: Path, seen: Evaluation, names: Sequence[str]) -> None:
    """Write a row a class; what is not defined stays empty, and `note` says of a class why."""
    never, only_predicted = excluded(seen, names)
    notes = dict.fromkeys(never, "never occurs: in no mean of IoU and recall")
    notes |= dict.fromkeys(only_predicted, "predicted, but not in this split: IoU 0")
    found = columns(seen, names)
    rows = [
        [name, *(_cell(values[i]) for values in found.values()), notes.get(name, "")] for i, name in enumerate(names)
    ]
    _write(path, [["class", *found, "note"], *rows])


def write_difference(folder: Path, seen: Evaluation, base: Evaluation, names: Sequence[str], base_name: str) -> None:
    """Write and draw how far a run's classes are from those of another one, the largest gain in IoU first."""
    here, there = columns(seen, names), columns(base, names)
    shared = [name for name in ("iou", *(n for n in here if n.startswith("f1_"))) if name in there]
    header = ["class"]
    for name in shared:
        header += [name, f"base_{name}", f"{name}_difference"]
    apart = here["iou"] - there["iou"]
    order = sorted(range(len(names)), key=lambda i: (bool(np.isnan(apart[i])), -apart[i]))
    rows = []
    for i in order:
        triples = [(here[name][i], there[name][i], here[name][i] - there[name][i]) for name in shared]
        rows.append([names[i], *(_cell(value) for triple in triples for value in triple), base_name])
    _write(folder / DIFFERENCE, [[*header, "base"], *rows])
    both = f"{base.confusion.miou():.3f} to {seen.confusion.miou():.3f}"
    title = f"IoU, from the base {base_name}: mIoU {both}"
    charts.differences(here["iou"], there["iou"], names, folder / BARS, title=title)


def _cell(value: Any) -> str:
    if isinstance(value, np.integer):
        return str(value)
    return "" if np.isnan(value) else f"{value:.4f}"


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)

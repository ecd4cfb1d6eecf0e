"""An evaluation as a table to read, and as plain types: overall, class by class, and what was left out of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayseg.data.reader import ShardSet
from rayseg.metrics import BoundaryScores, radius_px, threshold_name
from rayseg.metrics.bands import band_px
from rayseg.train.evaluation import Evaluation

PROTOCOL = "boundary_f1 counts an image without the class as 1, as GALD's Table V does; *_present leaves it out"


def lines(seen: Evaluation, shards: ShardSet) -> list[str]:
    """Write the table."""
    boundary, confusion = seen.boundary, seen.confusion
    defined = int((~np.isnan(confusion.iou())).sum())
    said = {"miou": f"over {defined} of {len(shards.class_names)} classes"}
    said |= {"latency_ms": "an image, here"}
    if boundary is not None:
        said |= {f"boundary_f1_{name}": f"within {text} here" for name, text in _radii(boundary, shards).items()}
        said |= {"boundary_iou": f"in bands of {_range([band_px(size) for size in _sizes(shards)])}"}
    overall = {name: value for name, value in seen.metrics(shards.class_names).items() if not name.startswith("iou/")}
    text = [f"{name:24}{value:8.4f}   {said.get(name, '')}".rstrip() for name, value in overall.items()]
    notes = [*excluded_lines(seen, shards), *([] if boundary is None else [PROTOCOL])]
    return [*text, "", *_table(per_class(seen), shards.class_names), *notes]


def plain(seen: Evaluation, shards: ShardSet) -> dict[str, Any]:
    """Give everything in plain types: the metrics by name, then what the table says beside them."""
    never, only_predicted = excluded(seen, shards.class_names)
    beside: dict[str, Any] = {"images": len(seen.images.truth), "never_occurs": never, "only_predicted": only_predicted}
    if seen.boundary is not None:
        beside["radii_px"] = _radii(seen.boundary, shards)
    columns = per_class(seen)
    beside["per_class"] = {
        name: {column: None if math.isnan(values[i]) else values[i].item() for column, values in columns.items()}
        for i, name in enumerate(shards.class_names)
    }
    return {**seen.metrics(shards.class_names), **beside}


def per_class(seen: Evaluation) -> dict[str, NDArray[Any]]:
    """Give the columns of the class table, each (C,), NaN where a figure is not defined."""
    confusion, boundary = seen.confusion, seen.boundary
    columns: dict[str, NDArray[Any]] = {"IoU": confusion.iou(), "recall": confusion.recall()}
    if boundary is not None:
        columns["bIoU"] = boundary.iou_per_class()
        names = [threshold_name(t) for t in boundary.thresholds_px]
        columns |= {f"F1 {name}": row for name, row in zip(names, boundary.per_class(), strict=True)}
        columns[f"{names[0]} present"] = boundary.per_class_present()[0]
        columns["images"] = boundary.present
    return {**columns, "pixels": confusion.counts.sum(axis=1)}


def excluded(seen: Evaluation, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Name the classes that never occur, so that they are in no mean, and those predicted but not in the truth."""
    truth, found = seen.confusion.counts.sum(axis=1), seen.confusion.counts.sum(axis=0)
    absent = [i for i in range(len(names)) if not truth[i]]
    return [names[i] for i in absent if not found[i]], [names[i] for i in absent if found[i]]


def excluded_lines(seen: Evaluation, shards: ShardSet) -> list[str]:
    """Say in a line each which classes the split has not."""
    never, only_predicted = excluded(seen, shards.class_names)
    said = [f"never occur, so they are left out of the means of IoU and recall: {', '.join(never)}"] if never else []
    if only_predicted:
        said.append(f"not in this split but predicted, so their IoU is 0: {', '.join(only_predicted)}")
    return said


def _table(columns: dict[str, NDArray[Any]], names: Sequence[str]) -> list[str]:
    width = max(14, *map(len, names)) + 1
    widths = {
        column: max(8, len(column) + 2, *(len(_cell(v)) + 2 for v in values)) for column, values in columns.items()
    }
    head = f"{'class':{width}}" + "".join(f"{column:>{widths[column]}}" for column in columns)
    rows = [
        f"{name:{width}}" + "".join(f"{_cell(values[i]):>{widths[column]}}" for column, values in columns.items())
        for i, name in enumerate(names)
    ]
    return [head, *rows]


def _cell(value: Any) -> str:
    if isinstance(value, np.integer):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.4f}"


def _sizes(shards: ShardSet) -> set[tuple[int, int]]:
    return set(zip(shards.index.height.tolist(), shards.index.width.tolist(), strict=True))


def _radii(boundary: BoundaryScores, shards: ShardSet) -> dict[str, str]:
    """Say by threshold how many pixels it is in these images."""
    sizes = _sizes(shards)
    return {threshold_name(t): _range([radius_px(t, size) for size in sizes]) for t in boundary.thresholds_px}


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g} px" if low == high else f"{low:g} to {high:g} px"

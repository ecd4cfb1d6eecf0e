"""The ranking: what each trial came to, best first, as rows, as text, as CSV, and as a grid of two searched values."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.sweep.trial import Trial, short
from rayseg.train.progress import duration
from rayseg.train.review import Summary


class Row(NamedTuple):
    """One trial and its summary; None where it failed or never ran."""

    trial: Trial
    summary: Summary | None


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort by best mIoU, then by fewer parameters; trials without a summary last."""

    def merit(row: Row) -> tuple[bool, float, int]:
        return (False, -row.summary.best_miou, row.summary.parameters) if row.summary else (True, 0.0, 0)

    return sorted(rows, key=merit)


def columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Give header and cells of the ranking."""
    names = list(rows[0].trial.point) if rows else []
    header = [
        "rank",
        "trial",
        *(name.rsplit(".", 1)[-1] for name in names),
        "mIoU",
        "last",
        "steps",
        "params",
        "time",
        "end",
    ]
    cells = [
        [str(rank), row.trial.key, *(short(row.trial.point[name]) for name in names), *_figures(row.summary)]
        for rank, row in enumerate(rows, start=1)
    ]
    return header, cells


def _figures(s: Summary | None) -> list[str]:
    if s is None:
        return ["-", "-", "-", "-", "-", "failed"]
    params = f"{s.parameters / 1e6:.2f} M"
    return [f"{s.best_miou:.4f}", f"{s.miou:.4f}", str(s.step), params, duration(s.seconds), s.status]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Save the ranking."""
    header, cells = columns(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *cells])


def text(rows: Sequence[Row]) -> str:
    """Write the ranking as aligned columns."""
    header, cells = columns(rows)
    return _aligned([header, *cells])


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


class Surface(NamedTuple):
    """Best mIoU over two searched values, NaN where no trial ran; `counts` says how many did."""

    row_values: list[Any]
    column_values: list[Any]
    best: np.ndarray
    counts: np.ndarray


def surface(rows: Iterable[Row], names: tuple[str, str]) -> Surface | None:
    """Lay trials out over two searched values; None where they were not both searched."""
    cells: dict[tuple[Any, Any], list[float]] = {}
    for trial, summary in rows:
        if summary and _has(trial.point, names):
            cells.setdefault((trial.point[names[0]], trial.point[names[1]]), []).append(summary.best_miou)
    if not cells:
        return None
    row_values, column_values = (sorted({pair[i] for pair in cells}) for i in (0, 1))
    best = np.full((len(row_values), len(column_values)), np.nan)
    counts = np.zeros(best.shape, dtype=np.int64)
    for (row, column), values in cells.items():
        where = row_values.index(row), column_values.index(column)
        best[where], counts[where] = max(values), len(values)
    return Surface(row_values, column_values, best, counts)


def _has(point: Mapping[str, Any], names: tuple[str, str]) -> bool:
    return all(name in point for name in names)


def surface_text(surface: Surface, names: tuple[str, str]) -> str:
    """Write the surface as a small table; `*` marks the best cell."""
    row_name, column_name = (name.rsplit(".", 1)[-1] for name in names)
    top = np.nanmax(surface.best)
    lines = [[f"{row_name} \\ {column_name}", *map(short, surface.column_values)]]
    for value, row in zip(surface.row_values, surface.best, strict=True):
        lines.append([short(value), *("-" if np.isnan(v) else f"{v:.3f}{'*' if v == top else ''}" for v in row)])
    return _aligned(lines)

"""The ranking: what each trial came to, best first, as rows, as text, as CSV, and as a grid of two searched values."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.sweep import pareto
from rayseg.sweep.trial import Trial, labels, short
from rayseg.train.progress import duration
from rayseg.train.review import Summary


class Row(NamedTuple):
    """One trial and its summary, None where it failed or never ran; `run` is the earlier one that it is known from."""

    trial: Trial
    summary: Summary | None
    run: str = ""


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort by best mIoU, then by fewer parameters; trials without a summary last."""

    def merit(row: Row) -> tuple[bool, float, int]:
        return (False, -row.summary.best_miou, row.summary.parameters) if row.summary else (True, 0.0, 0)

    return sorted(rows, key=merit)


def value(summary: Summary, objective: str) -> float | None:
    """Read what a trial came to in one objective, the more the better; None where that was not measured."""
    figure, sign = objective.removeprefix("-"), -1.0 if objective.startswith("-") else 1.0
    found = float({"miou": summary.best_miou}.get(figure, getattr(summary, figure, 0.0)))
    return sign * found if figure == "miou" or found > 0 else None


def front(rows: Sequence[Row], objectives: Sequence[str]) -> set[int]:
    """Name the rows, counted from 0, that no other one beats in all objectives at once: the Pareto front."""
    points = []
    for number, row in enumerate(rows):
        values = [value(row.summary, name) for name in objectives] if row.summary else [None]
        known = [v for v in values if v is not None]
        if len(known) == len(values):
            points.append((number, known))
    return set(pareto.front(points))


def columns(rows: Sequence[Row], objectives: Sequence[str] = ("miou",)) -> tuple[list[str], list[list[str]]]:
    """Give header and cells of the ranking; of several objectives, `front` marks the trials that none beats in all."""
    names = list(dict.fromkeys(name for row in rows for name in row.trial.point))
    several, timed = len(objectives) > 1, "-latency_ms" in objectives
    best = front(rows, objectives) if several else set()
    header = ["rank", "trial", *labels(names).values()]
    header += ["mIoU", "last", "steps", "params", *(["ms"] if timed else []), "time", *(["front"] if several else [])]
    cells = []
    for number, row in enumerate(rows):
        point = [short(row.trial.point[name]) if name in row.trial.point else "" for name in names]
        latency = f"{row.summary.latency_ms:.1f}" if row.summary and row.summary.latency_ms > 0 else "-"
        mark = "*" if number in best else ""
        *figures, time = _figures(row)
        more = [*([latency] if timed else []), time, *([mark] if several else [])]
        cells.append([str(number + 1), row.trial.key, *point, *figures, *more, _end(row)])
    return [*header, "end"], cells


def _figures(row: Row) -> list[str]:
    if (s := row.summary) is None:
        return ["-", "-", "-", "-", "-"]
    time = "-" if s.status == "known" else duration(s.seconds)
    return [f"{s.best_miou:.4f}", f"{s.miou:.4f}", str(s.step), f"{s.parameters / 1e6:.2f} M", time]


def _end(row: Row) -> str:
    if row.summary is None:
        return "failed"
    return f"known: {row.run}" if row.run else row.summary.status


def write_csv(path: Path, rows: Sequence[Row], objectives: Sequence[str] = ("miou",)) -> None:
    """Save the ranking."""
    header, cells = columns(rows, objectives)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *cells])


def text(rows: Sequence[Row], objectives: Sequence[str] = ("miou",)) -> str:
    """Write the ranking as aligned columns."""
    header, cells = columns(rows, objectives)
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
    for trial, summary, _ in rows:
        if summary and _has(trial.point, names):
            cells.setdefault((trial.point[names[0]], trial.point[names[1]]), []).append(summary.best_miou)
    if not cells:
        return None
    row_values, column_values = (sorted({pair[i] for pair in cells}, key=_order) for i in (0, 1))
    best = np.full((len(row_values), len(column_values)), np.nan)
    counts = np.zeros(best.shape, dtype=np.int64)
    for (row, column), values in cells.items():
        where = row_values.index(row), column_values.index(column)
        best[where], counts[where] = max(values), len(values)
    return Surface(row_values, column_values, best, counts)


def _order(value: Any) -> tuple[bool, float, str]:
    """Put numbers by their size, before what is none."""
    number = isinstance(value, (int, float))
    return (not number, value if number else 0.0, str(value))


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

"""Figures of a sweep and of a data set: heat maps, training curves, Pareto fronts, augmented samples, as PNG files.

Pure drawing from arrays. Figure objects without pyplot keep no state between calls, and a file's bytes depend on its
content alone. Matplotlib is imported when something is drawn: it costs a command that draws nothing no time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.data.card import Card

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Color = Sequence[int]
Series = Mapping[str, Sequence[tuple[float, float]]]

VOID, UNKNOWN = (0, 0, 0), (255, 0, 255)  # what nobody labelled; a label that the card does not know
RIGHT, WRONG, IGNORED = (240, 240, 240), (204, 32, 32), (160, 160, 160)
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#000000")  # Okabe and Ito's
_DPI = 100


def mask_to_rgb(mask: ArrayLike, colors: Sequence[Color], ignore_index: int) -> NDArray[np.uint8]:
    """Colour a mask (H,W): the classes in `colors`, ignored pixels black, labels of neither kind magenta (H,W,3)."""
    table = np.full((256, 3), UNKNOWN, np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    table[ignore_index] = VOID
    return table[np.asarray(mask)]


def errors_to_rgb(truth: ArrayLike, prediction: ArrayLike, ignore_index: int) -> NDArray[np.uint8]:
    """Show wrong pixels red, right ones nearly white and ignored ones grey (H,W,3)."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    verdict = np.where(truth == ignore_index, 2, truth != prediction)
    return np.array([RIGHT, WRONG, IGNORED], np.uint8)[verdict]


Pair = tuple[ArrayLike, ArrayLike]
"""An image (H,W,3) uint8 and its mask (H,W)."""


def augmented(
    rows: Mapping[str, Sequence[Pair]], names: Sequence[str], card: Card, path: Path, *, title: str = ""
) -> None:
    """Draw samples and what augmentation makes of them, labels below images, over a legend of the card's classes.

    Each of `rows` is a sample by its name: first itself, then its crops; `names` says what each column is.
    """
    colors, ignored = [spec.color for spec in card.classes], card.ignore_index
    ratios = [np.asarray(image).shape[0] / np.asarray(image).shape[1] for image, _ in next(iter(rows.values()))]
    width, legend_lines = 1.9, -(-(len(colors) + 1) // 6)
    height = 2 * len(rows) * (width * max(ratios) + 0.06) + 0.24 * legend_lines + 0.75
    figure = _figure(width * len(names) + 0.3, height)
    grid = figure.subplots(2 * len(rows), len(names), squeeze=False)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name, fontsize=10)
    for i, (sample, pairs) in enumerate(rows.items()):
        grid[2 * i, 0].set_ylabel(sample, fontsize=8)
        for j, (image, mask) in enumerate(pairs):
            grid[2 * i, j].imshow(np.asarray(image), interpolation="antialiased")
            grid[2 * i + 1, j].imshow(mask_to_rgb(mask, colors, ignored), interpolation="nearest")
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    _legend(figure, card, [("no label", VOID)])
    _save(figure, path, title)


def _legend(figure: Figure, card: Card, others: Sequence[tuple[str, Color]]) -> None:
    from matplotlib.patches import Patch

    named = [(spec.name, spec.color) for spec in card.classes] + list(others)
    patches = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*color), edgecolor="0.4", label=name) for name, color in named
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=9, frameon=False)


def heat_map(
    values: ArrayLike,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    path: Path,
    *,
    row_name: str,
    column_name: str,
    title: str = "",
    value_name: str = "mIoU",
    trials: ArrayLike | None = None,
) -> None:
    """Draw values over two searched settings, NaN where nothing ran, with the best cell framed.

    Values are (R,C); `trials` (R,C), where given, says how many trials stand behind each.
    """
    values = np.asarray(values, np.float64)
    counts = None if trials is None else np.asarray(trials)
    figure = _figure(2.8 + 1.0 * len(column_labels), 1.7 + 0.62 * len(row_labels))
    axes = figure.add_subplot(facecolor="0.93")
    limits = _limits(values)
    picture = axes.imshow(values, cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(column_labels)), column_labels)
    axes.set_yticks(range(len(row_labels)), row_labels)
    axes.set(xlabel=column_name, ylabel=row_name)
    texts = [[f"{v:.3f}" if v == v else "–" for v in row] for row in values]
    if counts is not None:
        texts = [
            [f"{t}\nn={n}" if n else t for t, n in zip(*row, strict=True)] for row in zip(texts, counts, strict=True)
        ]
    _write_cells(axes, values, texts, limits)
    _frame_best(axes, values)
    if not np.isnan(values).all():
        figure.colorbar(picture, ax=axes, label=value_name)
    _save(figure, path, title)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _frame_best(axes: Axes, values: NDArray[np.float64]) -> None:
    from matplotlib.patches import Rectangle

    if np.isnan(values).all():
        return
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    corner = (float(column) - 0.47, float(row) - 0.47)
    axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#d55e00", linewidth=3))


def _write_cells(
    axes: Axes, values: NDArray[np.float64], texts: Sequence[Sequence[str]], limits: tuple[float, float]
) -> None:
    """Write into every cell, dark on the bright end of the map."""
    low, high = limits
    for (row, column), value in np.ndenumerate(values):
        bright = not (value - low) / (high - low) < 0.6
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=9, color="0.1" if bright else "1")


def curves(
    series: Series, path: Path, *, title: str = "", value_name: str = "mIoU", step_name: str = "optimizer step"
) -> None:
    """Draw one line per trial, (step, value) points; the eight with the highest last value in colour and named."""
    curve_panels({value_name: series}, path, title=title, step_name=step_name)


def curve_panels(
    panels: Mapping[str, Series], path: Path, *, title: str = "", step_name: str = "optimizer step"
) -> None:
    """Draw curves of several figures under each other, by their names; the first one ranks and colours the trials.

    The eight with the highest last value there are in colour in all, and named once.
    """
    figure = _figure(8, 1.5 + 3.0 * len(panels))
    rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    ranked: list[str] = []
    for axes, (value_name, series) in zip(rows, panels.items(), strict=True):
        drawn = {name: np.asarray(points, np.float64) for name, points in series.items() if len(points)}
        ranked = ranked or sorted(drawn, key=lambda name: _last(drawn[name]), reverse=True)
        for name in ranked[len(LINES) :]:
            if name in drawn:
                axes.plot(*drawn[name].T, color="0.8", linewidth=1)
        for name, color in reversed([*zip(ranked, LINES, strict=False)]):
            if name in drawn:
                axes.plot(*drawn[name].T, color=color, linewidth=1.8, marker="o", markersize=3)
        axes.set(ylabel=value_name)
        axes.grid(color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is rows[0]:
            _name_ends(axes, {name: drawn[name][-1] for name in ranked[: len(LINES)]}, len(ranked) - len(LINES))
    rows[-1].set(xlabel=step_name)
    _save(figure, path, title)


def pareto(
    points: Mapping[str, tuple[float, float]],
    front: Collection[str],
    path: Path,
    *,
    cost_name: str,
    value_name: str = "mIoU",
    title: str = "",
) -> None:
    """Draw trials by (cost, value); those of the Pareto front, which none beats in both, joined and named."""
    figure = _figure(6.5, 4.2)
    axes = figure.add_subplot()
    others = [at for name, at in points.items() if name not in front]
    if others:
        axes.scatter([at[0] for at in others], [at[1] for at in others], s=18, color="0.7", label="beaten in both")
    best = sorted((at, name) for name, at in points.items() if name in front)
    if best:
        costs, values = zip(*(at for at, _ in best), strict=True)
        axes.step(costs, values, where="post", color=LINES[0], linewidth=1.2)
        axes.scatter(costs, values, color=LINES[0], s=30, zorder=3, label="Pareto front")
        for (cost, value), name in best:
            axes.annotate(name, (cost, value), (4, 5), textcoords="offset points", fontsize=8, color=LINES[0])
    axes.set(xlabel=cost_name, ylabel=value_name)
    axes.margins(0.12)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if points:
        axes.legend(loc="lower right", fontsize=9, frameon=False)
    _save(figure, path, title)


def _last(points: NDArray[np.float64]) -> float:
    return float(points[-1, 1]) if not math.isnan(points[-1, 1]) else -math.inf


def _name_ends(axes: Axes, ends: Mapping[str, NDArray[np.float64]], others: int) -> None:
    """Write the names right of the plot in the order of their last values, each as near to its line as room allows."""
    low, high = axes.get_ylim()
    room, previous = 0.055, 1.0 + 0.055
    for (name, (_, value)), color in zip(ends.items(), LINES, strict=False):
        place = (value - low) / (high - low) if value == value else 0.0
        previous = min(place, previous - room)
        axes.text(1.015, previous, name, color=color, transform=axes.transAxes, va="center", fontsize=9)
    if others > 0:
        below = previous - room
        axes.text(1.015, below, f"{others} more", color="0.5", transform=axes.transAxes, va="center", fontsize=9)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _save(figure: Any, path: Path, title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=11)
    figure.savefig(path, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 9})

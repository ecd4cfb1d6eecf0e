"""The parts of an analysis' picture: panels that share the image's coordinates, heat maps with a bar, the marked point.

Figure objects without pyplot keep no state between calls, and a picture's bytes depend on its content alone.
Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.analysis.subject import Arrays
from rayseg.data.card import Card
from rayseg.figures import VOID, mask_to_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
PANEL, BAR = 3.4, 0.75
"""Widths in inches, of a panel and of a bar beside it."""
POINT = "#00ff40"


class Sheet(NamedTuple):
    """What every drawing needs beside its arrays: classes and their colours, the lines of the title, image keys."""

    card: Card
    title: str
    subtitle: str
    keys: tuple[str, ...] = ()

    @property
    def colors(self) -> list[Sequence[int]]:
        """The classes' colours, by label."""
        return [spec.color for spec in self.card.classes]


def panels(arrays: Arrays, rows: int, columns: int, *, legend: int = 0, bars: bool = True) -> tuple[Figure, Any]:
    """Make a grid of panels of the image's shape, with room for bars beside them and for `legend` lines below."""
    height, width = arrays["image"].shape[:2]
    each = PANEL * height / width + 0.35
    figure = blank((PANEL + BAR * bars) * columns, each * rows + 0.75 + 0.24 * legend)
    return figure, figure.subplots(rows, columns, squeeze=False)


def blank(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def picture(axes: Axes, pixels: NDArray[Any], title: str) -> None:
    """Show an image (H, W, 3)."""
    axes.imshow(pixels, interpolation="nearest")
    bare(axes, title)


def labels(axes: Axes, mask: NDArray[Any], sheet: Sheet, title: str) -> None:
    """Show labels (H, W) in the classes' colours."""
    picture(axes, mask_to_rgb(mask, sheet.colors, sheet.card.ignore_index), title)


def heat(axes: Axes, values: NDArray[Any], arrays: Arrays, title: str, **shown: Any) -> None:
    """Show a map (h, w) of the whole view over the image's coordinates, with a bar that `name` names.

    Args:
        shown: `name`, and of `imshow`: `cmap`, `vmin`, `vmax`.
    """
    height, width = arrays["image"].shape[:2]
    name = shown.pop("name")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = axes.imshow(values, extent=extent, interpolation="nearest", **{"cmap": "viridis", **shown})
    bar(axes, drawn, name)
    bare(axes, title)


def bar(axes: Axes, drawn: Any, name: str) -> None:
    """Put a bar of the colours of what was drawn beside a panel, as high as it."""
    figure = axes.get_figure()
    assert figure is not None
    colors = figure.colorbar(drawn, cax=axes.inset_axes((1.02, 0, 0.04, 1)))
    colors.set_label(name, fontsize=8)
    colors.ax.tick_params(labelsize=7)


def outline(axes: Axes, where: NDArray[np.bool_], color: str = "white") -> None:
    """Draw the edge of a region (H, W)."""
    if where.any() and not where.all():
        limits = axes.axis()
        axes.contour(where.astype(float), levels=[0.5], colors=color, linewidths=0.9)
        axes.axis(limits)


def mark(axes: Axes, arrays: Arrays) -> None:
    """Mark the chosen point with a green cross, as Denoised NL's figure does."""
    if "point" in arrays:
        y, x = arrays["point"]
        for size, width, color in ((17, 4.5, "black"), (16, 2, POINT)):
            axes.plot([x], [y], "+", markersize=size, markeredgewidth=width, color=color, scalex=False, scaley=False)


def bare(axes: Axes, title: str) -> None:
    """Leave an axes without ticks, under a title."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def plot(axes: Axes, title: str, x_name: str, y_name: str) -> None:
    """Give an axes of curves or bars its title and names."""
    axes.set(xlabel=x_name, ylabel=y_name)
    axes.set_title(title, fontsize=9)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, masks: Sequence[NDArray[Any]], sheet: Sheet, others: Sequence[tuple[str, Any]] = ()) -> None:
    """Name the colours of the classes that occur in `masks`, and others."""
    from matplotlib.patches import Patch

    seen = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    named = [(spec.name, spec.color) for i, spec in enumerate(sheet.card.classes) if i in seen]
    named += [("no label", VOID)] if sheet.card.ignore_index in seen else []
    patches = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*color), edgecolor="0.4", label=name)
        for name, color in [*named, *others]
    ]
    columns = max(2, int(figure.get_figwidth() // 1.3))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def png(figure: Figure, sheet: Sheet) -> bytes:
    """Write the title over the figure, and give it as PNG."""
    figure.suptitle(f"{sheet.title}\n{sheet.subtitle}", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

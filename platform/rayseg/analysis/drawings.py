"""One function for each figure of the catalogue, of its name: arrays to a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rayseg.analysis import draw
from rayseg.analysis.draw import Sheet
from rayseg.analysis.subject import Arrays, at_cells
from rayseg.figures import IGNORED, LINES, RIGHT, WRONG, errors_to_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVALS = 20
BLUE, ORANGE = LINES[0], LINES[1]


def class_variance(arrays: Arrays, sheet: Sheet) -> Figure:
    """Count the channels in intervals of both measures, with the module and without."""
    figure = draw.blank(9.6, 4.8)
    left, right = figure.subplots(1, 2)
    names = ["without: what enters DGCW", "with: what leaves it"]
    if len(sheet.keys) > 1:
        names = [f"without: {sheet.keys[1]}", f"with: {sheet.keys[0]}"]
    both = [arrays["without_variance"], arrays["with_variance"]]
    edges = intervals(np.concatenate(both))
    _histogram(left, both, edges, names)
    left.set_xscale("log")
    left.set_xticks(edges[::5], [f"{edge:.2g}" for edge in edges[::5]])
    left.set_xticks([], minor=True)
    draw.plot(left, "distance of the classes, as in the paper", "class-wise variance of a channel (eq. 8)", "channels")
    _histogram(right, [arrays["without_share"], arrays["with_share"]], np.linspace(0, 1, INTERVALS + 1), names)
    name = "part of a channel's variance that lies between classes"
    draw.plot(right, "the same, whatever a channel's scale", name, "channels")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def intervals(values: Any) -> Any:
    """Cut the range of values into intervals of one ratio; what is 0 belongs to the first."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1e-6, 1.0)
    return np.geomspace(low / 1.0001, max(high, 1.0001 * low) * 1.0001, INTERVALS + 1)


def _histogram(axes: Any, values: Any, edges: Any, names: list[str]) -> None:
    for name, each, color in zip(names, values, (ORANGE, BLUE), strict=True):
        kept = np.clip(each, edges[0], edges[-1])
        axes.hist(kept, edges, color=color, alpha=0.35)
        axes.hist(kept, edges, color=color, histtype="step", linewidth=1.6, label=f"{name} ({len(each)} channels)")
        axes.axvline(np.median(kept), color=color, linestyle="--", linewidth=1.3, label="its median")


def channel_weights(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw the weights by channel, and under them a second image's."""
    second = "other_low" in arrays
    figure = draw.blank(10.5, 6.0 if second else 3.6)
    grid = figure.subplots(2 if second else 1, 2, squeeze=False, width_ratios=(1, 3))
    draw.picture(grid[0, 0], arrays["image"], sheet.keys[0])
    _weights(grid[0, 1], "(a) both levels, one image", {"high level": arrays["high"], "low level": arrays["low"]})
    if second:
        draw.picture(grid[1, 0], arrays["other_image"], sheet.keys[1])
        both = {sheet.keys[0]: arrays["low"], sheet.keys[1]: arrays["other_low"]}
        _weights(grid[1, 1], "(b) low level, both images", both)
    return figure


def _weights(axes: Any, title: str, series: dict[str, Any]) -> None:
    for (name, values), color in zip(series.items(), (BLUE, ORANGE), strict=True):
        axes.plot(
            values, color=color, linewidth=1.1, marker=".", markersize=3, label=f"{name}, mean {values.mean():.3f}"
        )
    draw.plot(axes, title, "channel", "weight (0 to 1)")
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.08))


def confidence_map(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw the image, the channels of the lowest and of the two highest weights, the confidence and the labels."""
    figure, grid = draw.panels(arrays, 2, 3, legend=2)
    draw.picture(grid[0, 0], arrays["image"], sheet.keys[0])
    draw.heat(grid[0, 1], arrays["confidence"], arrays, "confidence of the spatial features (2DPAM)", name="confidence")
    draw.labels(grid[0, 2], arrays["truth"], sheet, "truth")
    for axes, (title, channel) in zip(grid[1], _shown_channels(arrays), strict=True):
        values = arrays["low_features"][channel]
        draw.heat(axes, values, arrays, title, name="activation", cmap="magma")
    for axes in (grid[0, 0], grid[0, 1]):
        draw.mark(axes, arrays)
    draw.legend(figure, [arrays["truth"]], sheet)
    return figure


def _shown_channels(arrays: Arrays) -> list[tuple[str, int]]:
    if "low" not in arrays:  # without DAFM no channel has a weight: those that vary most are shown
        most = np.argsort(-arrays["low_features"].std((1, 2)), kind="stable")[:3]
        return [(f"low-level channel {n}, which has no weight", int(n)) for n in most]
    order = np.argsort(arrays["low"], kind="stable")
    chosen = [("lowest", order[0]), ("second highest", order[-2]), ("highest", order[-1])]
    return [(f"low-level channel {n}: {which} weight, {arrays['low'][n]:.3f}", int(n)) for which, n in chosen]


def ldv1_mask(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw image, mask and labels."""
    figure, grid = draw.panels(arrays, 1, 3, legend=2)
    draw.picture(grid[0, 0], arrays["image"], sheet.keys[0])
    draw.heat(
        grid[0, 1], arrays["mean"], arrays, "share of the context passed on (LDv1)", name="mean of M over channels"
    )
    draw.labels(grid[0, 2], arrays["truth"], sheet, "truth")
    for axes in grid[0]:
        draw.mark(axes, arrays)
    draw.legend(figure, [arrays["truth"]], sheet)
    return figure


def local_affinity(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw the taps over the image and over the labels, in the colours of their weights, and the weights as a table."""
    figure, grid = draw.panels(arrays, 1, 3, legend=2)
    weights, inside = arrays["affinity"], arrays["inside"]
    limits = {"vmin": 0, "vmax": weights.max(), "cmap": "Reds"}
    draw.picture(grid[0, 0], np.full_like(arrays["image"], 255) // 2 + arrays["image"] // 2, "the point and its taps")
    draw.labels(grid[0, 1], arrays["truth"], sheet, "truth at the taps")
    for axes in grid[0, :2]:
        y, x = arrays["taps_yx"][inside].T
        axes.scatter(x, y, c=weights[inside], s=45, edgecolors="black", linewidths=0.8, zorder=3, **limits)
        draw.mark(axes, arrays)
        axes.set(xlim=(-0.5, arrays["truth"].shape[1] - 0.5), ylim=(arrays["truth"].shape[0] - 0.5, -0.5))
    table = grid[0, 2]
    drawn = table.imshow(weights, **limits)
    draw.bare(table, "weight of each tap")
    for (row, column), value in np.ndenumerate(weights):
        text = f"{value:.3f}".lstrip("0") + ("" if inside[row, column] else "\noutside")
        dark = value > 0.6 * weights.max()
        table.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    draw.bar(table, drawn, "affinity, sums to 1")
    draw.legend(figure, [arrays["truth"]], sheet)
    return figure


ATTENTION = {
    "attention": "A: attention as it is",
    "rectified": "A': rectified by classes (GR)",
    "retained": "A'': holes filled (LR)",
}


def attention_maps(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw the point's attention, step by step, within the outline of its class."""
    shown = [name for name in ATTENTION if name in arrays]
    figure, grid = draw.panels(arrays, 1, 1 + len(shown))
    point = tuple(arrays["point"])
    labels = arrays["truth"] if arrays["truth"][point] != sheet.card.ignore_index else arrays["prediction"]
    own = labels == labels[point]
    name = sheet.card.classes[labels[point]].name
    draw.picture(grid[0, 0], arrays["image"], f"{sheet.keys[0]}: the point is on {name}, outlined")
    for axes, key in zip(grid[0, 1:], shown, strict=True):
        row = arrays[key]
        on = row[at_cells(own, row.shape)].sum() / row.sum()
        title = f"{ATTENTION[key]}\nsums to {row.sum():.2f}, {on:.2f} of it on {name}"
        draw.heat(axes, row, arrays, title, name="weight", vmin=0, cmap="inferno")
    for axes in grid[0]:
        draw.outline(axes, own)
        draw.mark(axes, arrays)
    return figure


def border_prediction(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw image, labels and their borders, and under them what each level of the network predicts."""
    levels = sorted(name for name in arrays if name.startswith("border_") and name != "border_truth")
    columns = max(3, len(levels))
    figure, grid = draw.panels(arrays, 2, columns, legend=2)
    draw.picture(grid[0, 0], arrays["image"], sheet.keys[0])
    draw.labels(grid[0, 1], arrays["truth"], sheet, "truth")
    shown = np.where(arrays["counted"], np.where(arrays["border_truth"], 255, 0), 128).astype(np.uint8)
    draw.picture(grid[0, 2], np.repeat(shown[..., None], 3, 2), "borders in the truth (grey: no label)")
    for axes, name in zip(grid[1], levels, strict=False):
        last = ", the last" if name == levels[-1] else ""
        draw.heat(
            axes, arrays[name], arrays, f"predicted, {name}{last}", name="probability", cmap="gray", vmin=0, vmax=1
        )
    if columns > 3:
        draw.labels(grid[0, 3], arrays["prediction"], sheet, "prediction")
    for axes in (*grid[0, 4:], *grid[1, len(levels) :]):
        axes.set_axis_off()
    draw.legend(figure, [arrays["truth"], arrays["prediction"]], sheet)
    return figure


ONLY_THIS, ONLY_OTHER = (213, 94, 0), (0, 114, 178)


def error_map(arrays: Arrays, sheet: Sheet) -> Figure:
    """Draw image, truth, prediction and errors; with a second run its prediction, its errors and where they differ."""
    against = "against_wrong" in arrays
    figure, grid = draw.panels(arrays, 2 if against else 1, 4, legend=2, bars=False)
    draw.picture(grid[0, 0], arrays["image"], sheet.keys[0])
    draw.labels(grid[0, 1], arrays["truth"], sheet, "truth")
    masks = [arrays["truth"], arrays["prediction"]]
    _errors(grid[0, 2:], masks, sheet, f" of {sheet.keys[1]}" if against else "")
    others: list[tuple[str, Any]] = [("wrong", WRONG), ("right", RIGHT), ("not counted", IGNORED)]
    if against:
        run, other = sheet.keys[1:]
        masks.append(arrays["against_prediction"])
        _errors(grid[1, 2:], [masks[0], masks[2]], sheet, f" of {other}")
        draw.picture(grid[1, 1], _differences(arrays), "which of the two is wrong (red: both)")
        grid[1, 0].set_axis_off()
        others += [(f"only {run} wrong", ONLY_THIS), (f"only {other} wrong", ONLY_OTHER)]
    draw.legend(figure, masks, sheet, others)
    return figure


def _errors(grid: Any, masks: Any, sheet: Sheet, whose: str) -> None:
    truth, found = masks
    draw.labels(grid[0], found, sheet, f"prediction{whose}")
    draw.picture(grid[1], errors_to_rgb(truth, found, sheet.card.ignore_index), f"errors{whose}")


def _differences(arrays: Arrays) -> Any:
    mine, theirs = arrays["wrong"].astype(int), arrays["against_wrong"].astype(int)
    colors = np.array([RIGHT, ONLY_THIS, ONLY_OTHER, WRONG, IGNORED], np.uint8)
    return colors[np.where(arrays["counted"], mine + 2 * theirs, 4)]

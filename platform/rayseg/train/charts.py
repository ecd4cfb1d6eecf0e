"""The confusion matrix of a run, and by how much each class is better or worse than in another run, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayseg.metrics.confusion import ratio
from rayseg.train.paint import INK, PALE, WHITE, Canvas, Color, length

EDGE_PX, LINE_PX = 12, 20
MANY = 40
"""From so many classes on, cells are small and have no numbers."""
BETTER, WORSE = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermillion
BAR_PX = 170


def confusion_matrix(counts: ArrayLike, names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw a confusion matrix (C,C), rows truth, each row in percent, with every class's recall and IoU beside it."""
    counts = np.asarray(counts, np.float64)
    truth, both = counts.sum(axis=1), np.diag(counts)
    share = 100 * ratio(counts, np.broadcast_to(truth[:, None], counts.shape))
    beside = {"recall": np.diag(share), "IoU": 100 * ratio(both, truth + counts.sum(axis=0) - both)}
    wide, high = (34, 24) if len(names) < MANY else (15, 15)
    label = max(length(name) for name in names)
    left, top = EDGE_PX + LINE_PX + label + 8, EDGE_PX + 3 * LINE_PX
    right, bottom = left + wide * len(names), top + high * len(names)
    canvas = Canvas(max(right + 2 * 56, EDGE_PX + length(title, 15)) + EDGE_PX, bottom + label + LINE_PX + EDGE_PX + 12)
    canvas.text(EDGE_PX, EDGE_PX + 6, title, size=15)
    canvas.text(EDGE_PX, EDGE_PX + 6 + LINE_PX, "% of the truth's pixels", color=PALE)
    canvas.upwards(EDGE_PX + 6, (top + bottom) // 2 + 16, "truth")
    canvas.text((left + right) // 2, bottom + label + 24, "prediction", anchor="mm")
    for i, name in enumerate(names):
        y = top + i * high + high // 2
        canvas.text(left - 6, y, name, anchor="rm")
        canvas.upwards(left + i * wide + wide // 2, bottom + 8 + length(name), name)
        for j, value in enumerate(share[i]):
            if not np.isnan(value):
                x, color = left + j * wide, _viridis()[round(2.55 * value)]
                canvas.box(x, top + i * high, wide, high, color)
                if value >= 0.5 and len(names) < MANY:
                    canvas.text(x + wide // 2, y, f"{value:.0f}", color=INK if value > 60 else WHITE, anchor="mm")
    for column, (name, values) in enumerate(beside.items()):
        x = right + 28 + 52 * column
        canvas.text(x, top - 12, name, color=PALE, anchor="mm")
        for i, value in enumerate(values):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            canvas.text(x, top + i * high + high // 2, text, anchor="mm")
    canvas.save(path)


def differences(
    values: NDArray[np.float64], base: NDArray[np.float64], names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw by how much each class's value (C,) is above or below the base's, the largest gain first.

    A class that has no value in one of both has no bar.
    """
    apart = values - base
    order = sorted(range(len(names)), key=lambda i: (bool(np.isnan(apart[i])), -apart[i]))
    most = max(float(np.nanmax(np.abs(apart))) if not np.isnan(apart).all() else 0.0, 1e-9)
    label = max(length(name) for name in names)
    middle = EDGE_PX + label + 12 + BAR_PX
    top = EDGE_PX + 2 * LINE_PX
    texts = {i: _said(base[i], values[i]) for i in order}
    right = middle + BAR_PX + 66 + max(length(text) for text in texts.values())
    canvas = Canvas(max(right, EDGE_PX + length(title, 15)) + EDGE_PX, top + LINE_PX * len(names) + EDGE_PX)
    canvas.text(EDGE_PX, EDGE_PX + 6, title, size=15)
    for row, i in enumerate(order):
        y = top + row * LINE_PX
        canvas.text(EDGE_PX + label, y + LINE_PX // 2, names[i], anchor="rm")
        canvas.text(middle + BAR_PX + 58, y + LINE_PX // 2, texts[i], color=PALE)
        if np.isnan(apart[i]):
            continue
        bar = round(BAR_PX * abs(apart[i]) / most)
        color: Color = BETTER if apart[i] >= 0 else WORSE
        if bar:
            canvas.box(middle if apart[i] >= 0 else middle - bar, y + 3, bar, LINE_PX - 6, color)
        canvas.text(middle + BAR_PX + 48, y + LINE_PX // 2, f"{apart[i]:+.3f}", anchor="rm")
    canvas.box(middle, top, 1, LINE_PX * len(names), PALE)
    canvas.save(path)


def _said(before: float, now: float) -> str:
    if np.isnan(before) and np.isnan(now):
        return "never occurs"
    return " to ".join("none" if np.isnan(value) else f"{value:.3f}" for value in (before, now))


@cache
def _viridis() -> list[Color]:
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0]
    return [(int(red), int(green), int(blue)) for blue, green, red in table]

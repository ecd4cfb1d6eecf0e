"""Charts of a report that stand for levels and pairs: intervals, heat map, dots and the Pareto front; inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayseg.data.markup import Markup, tag
from rayseg.report.levels import Grid, Level
from rayseg.report.values import Trial
from rayseg.sweep.judged import Pair


def svg(parts: Sequence[object], width: float, height: float, about: str, **attributes: object) -> Markup:
    """Make a drawing that is at most as wide as it is drawn."""
    box = f"0 0 {width:.0f} {height:.0f}"
    style = f"max-width:{width:.0f}px"
    return tag("svg", parts, viewBox=box, role="img", aria_label=about, style=style, **attributes)


def text(words: object, x: float, y: float, *, anchor: str = "start", look: str | None = None) -> Markup:
    """Write a word into a drawing."""
    return tag("text", str(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=look)


def line(x1: float, y1: float, x2: float, y2: float, *, look: str = "tick") -> Markup:
    """Draw a line."""
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=look)


def cut(words: str, most: int) -> str:
    """Shorten a text to so many characters."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Give round numbers between two, about as many as wanted; the ends themselves where they are equal."""
    if not high > low:
        return [low]
    unit = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step = min((unit * times for times in (1, 2, 5, 10)), key=lambda s: abs((high - low) / s - wanted))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def intervals(pairs: Sequence[Pair]) -> Markup:
    """Draw by how much the best is above each other one, and the interval of it, over a line at 0."""
    low, high = min(0.0, *(p.low for p in pairs)), max(0.0, *(p.high for p in pairs))
    room = (high - low) * 0.05 or 0.01
    low, high, left, width, step = low - room, high + room, 190.0, 720.0, 30.0
    height = step * len(pairs) + 34

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 20)

    parts = [line(across(v), 0, across(v), height - 24) for v in ticks(low, high)]
    parts += [text(f"{v:+.3g}" if v else "0", across(v), height - 8, anchor="middle") for v in ticks(low, high)]
    parts.append(line(across(0), 0, across(0), height - 24, look="range"))
    for i, p in enumerate(pairs):
        y, said = step * i + 16, f"{p.best} − {p.other}: {p.difference:+.4f} [{p.low:+.4f}, {p.high:+.4f}]"
        bar = [line(across(p.low), y, across(p.high), y, look="mean")]
        bar += [line(across(end), y - 6, across(end), y + 6, look="mean") for end in (p.low, p.high)]
        dot = tag("circle", cx=f"{across(p.difference):.1f}", cy=y, r=6, class_="dot front")
        parts += [text(f"{p.best} − {p.other}", 0, y + 4, look="value"), tag("g", bar, dot, data_say=said)]
    return svg(parts, width, height, "How far the best is above the other finalists, with intervals")


def heat_map(grid: Grid, names: tuple[str, str]) -> Markup:
    """Draw the best mIoU over two searched values, darker the higher, the best cell framed; what never ran is empty."""
    wide, tall, left, top = 104.0, 58.0, 130.0, 30.0
    known = [float(v) for v in grid.best.ravel() if v == v]
    low, high = min(known), max(known)
    width, height = left + wide * len(grid.columns) + 4, top + tall * len(grid.rows) + 46
    parts: list[Markup] = [text(names[0], 0, top - 12, look="name")]
    parts.append(text(names[1], left + wide * len(grid.columns) / 2, height - 6, anchor="middle", look="name"))
    for j, name in enumerate(grid.columns):
        parts.append(text(cut(name, 16), left + wide * (j + 0.5), height - 28, anchor="middle"))
    for i, name in enumerate(grid.rows):
        parts.append(text(cut(name, 18), left - 10, top + tall * (i + 0.5) + 4, anchor="end"))
        for j, column in enumerate(grid.columns):
            x, y, value = left + wide * j, top + tall * i, float(grid.best[i, j])
            share = (value - low) / (high - low) if high > low else 1.0
            parts.append(_cell(grid, (i, j), x, y, share, f"{names[0]} {name}, {names[1]} {column}"))
            if value == high:
                parts.append(tag("rect", x=x + 2, y=y + 2, width=wide - 4, height=tall - 4, class_="frame"))
    return svg(parts, width, height, f"Best mIoU over {names[0]} and {names[1]}")


def _cell(grid: Grid, at: tuple[int, int], x: float, y: float, share: float, about: str) -> Markup:
    count, middle = int(grid.counts[at]), x + 52
    if not count:
        return text("–", middle, y + 33, anchor="middle")
    said = f"{about}\nbest {grid.best[at]:.4f}, mean {grid.mean[at]:.4f}, {count} trials"
    box = tag("rect", x=x + 1, y=y + 1, width=102, height=56, class_="cell", fill_opacity=f"{0.08 + 0.9 * share:.2f}")
    look = "over" if share > 0.85 else "value"
    words = [text(f"{grid.best[at]:.4f}", middle, y + 27, anchor="middle", look=look)]
    words.append(text(f"n = {count}", middle, y + 45, anchor="middle", look=look))
    return tag("g", box, words, data_say=said)


def dots(level: Level, low: float, high: float) -> Markup:
    """Draw the trials of a level over the range of all, and a stroke at their mean."""
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return 8 + (value - low) / span * 224

    marks = [
        tag("circle", cx=f"{across(v):.1f}", cy=9 + (i * 7) % 11 - 5, r=3, class_="dot", data_say=f"mIoU {v:.4f}")
        for i, v in enumerate(level.miou)
    ]
    mean = line(across(level.mean), 1, across(level.mean), 19, look="mean")
    return svg([line(8, 10, 232, 10), *marks, mean], 240, 20, f"mean {level.mean:.4f}")


def front(trials: Sequence[Trial], costs: Sequence[float], best: set[str], cost_name: str) -> Markup:
    """Draw trials by cost and mIoU; those that none beats in both are diamonds, joined and named."""
    width, height, left, under = 760.0, 330.0, 60.0, 44.0
    scores = [trial.miou or 0.0 for trial in trials]
    ends = [(min(v), max(v)) for v in (costs, scores)]
    (x0, x1), (y0, y1) = (((a - (b - a) * 0.06), b + (b - a) * 0.14) if b > a else (a - 0.5, b + 0.5) for a, b in ends)

    def place(cost: float, score: float) -> tuple[float, float]:
        across = left + (cost - x0) / (x1 - x0) * (width - left)
        return across, (height - under) * (1 - (score - y0) / (y1 - y0))

    parts = [line(left, place(x0, v)[1], width, place(x0, v)[1]) for v in ticks(y0, y1)]
    parts += [text(f"{v:.3g}", left - 6, place(x0, v)[1] + 4, anchor="end") for v in ticks(y0, y1)]
    parts += [text(f"{v:.4g}", place(v, y0)[0], height - under + 18, anchor="middle") for v in ticks(x0, x1)]
    parts += [text(cost_name, width, height - 6, anchor="end", look="name"), text("mIoU", 0, 12, look="name")]
    steps = sorted((*place(c, s), t.key) for t, c, s in zip(trials, costs, scores, strict=True) if t.key in best)
    path = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y, _) in enumerate(steps))
    parts.append(tag("path", d=path, class_="line best", stroke_opacity=0.5))
    for trial, cost, score in zip(trials, costs, scores, strict=True):
        x, y = place(cost, score)
        say = {"data_key": trial.key, "data_say": f"{trial.key}: mIoU {score:.4f}, {cost_name} {cost:.5g}"}
        if trial.key in best:
            shape = f"M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8Z"
            parts += [tag("path", d=shape, class_="dot front", **say), text(trial.key, x + 11, y - 5, look="value")]
        else:
            parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5, class_="dot", **say))
    return svg(parts, width, height, f"mIoU against {cost_name}")

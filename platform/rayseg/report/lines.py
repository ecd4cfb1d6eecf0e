"""Charts of a report with a line a trial: parallel coordinates over what was searched, and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rayseg.data.charts import HUES
from rayseg.data.markup import Markup, tag
from rayseg.report.charts import cut, line, svg, text, ticks
from rayseg.report.values import Curve, Searched, Trial
from rayseg.sweep.trial import describe, short

TOP, BOTTOM, APART = 40.0, 320.0, 128.0
UNSET = BOTTOM + 26
"""Where a line goes at a value that was not searched in its trial."""
NAMED = len(HUES)
"""So many of the best curves have a colour, a dash and a name."""
DASHES = (None, "7 3", "2 3", "10 3 2 3", "5 5", "1 4")
MOST_POINTS = 160


class Axis(NamedTuple):
    """An axis: its name, ticks as (text, height), and each trial's height on it, None where it has no value."""

    name: str
    ticks: list[tuple[str, float]]
    places: list[float | None]


def axis(searched: Searched, trials: Sequence[Trial]) -> Axis:
    """Lay a searched value out: choices evenly and in their order, numbers between bounds to scale."""
    if searched.scale is None:
        steps = len(searched.values)
        heights = {repr(v): _height((i + 0.5) / steps) for i, v in enumerate(searched.values)}
        places = [heights[repr(t.point[searched.name])] if searched.name in t.point else None for t in trials]
        every = math.ceil(steps / 14)
        marks = [(short(v), heights[repr(v)]) for v in searched.values[::every]]
        return Axis(searched.label, marks, places)
    numbers = [float(t.point[searched.name]) if searched.name in t.point else None for t in trials]
    return _scaled(f"{searched.label} (log)" if searched.scale == "log" else searched.label, numbers, searched.scale)


def _scaled(name: str, numbers: Sequence[float | None], scale: str) -> Axis:
    known = [v for v in numbers if v is not None]
    low, high = min(known), max(known)
    if scale == "log":
        low, high = math.log10(low), math.log10(high)
        marks = [low + (high - low) * i / 4 for i in range(5)]
    else:
        marks = ticks(low, high)

    def height(value: float) -> float:
        return _height((value - low) / (high - low) if high > low else 0.5)

    shown = [(f"{10**v if scale == 'log' else v:.3g}", height(v)) for v in dict.fromkeys(marks)]
    found = [None if v is None else height(math.log10(v) if scale == "log" else v) for v in numbers]
    return Axis(name, shown, found)


def _height(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def parallel(trials: Sequence[Trial], searched: Sequence[Searched], best: str) -> Markup:
    """Draw each trial as a line over all searched values and its mIoU, stronger the better; ranges can be dragged."""
    shown = [trial for trial in trials if trial.counts]
    axes = [axis(each, shown) for each in searched]
    axes.append(_scaled("mIoU", [trial.miou for trial in shown], "linear"))
    missing = any(place is None for each in axes for place in each.places)
    width, height = max(APART * len(axes) + 20, 900), (UNSET if missing else BOTTOM) + 16
    across = [74 + (width - 148) * i / (len(axes) - 1) if len(axes) > 1 else width / 2 for i in range(len(axes))]
    parts, faint = list[Markup](), max(0.04, 0.18 * min(1.0, 30 / len(shown)))
    for number, trial in reversed([*enumerate(shown)]):
        places = [UNSET if (place := each.places[number]) is None else place for each in axes]
        path = "".join(
            f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(zip(across, places, strict=True))
        )
        strength = f"{faint + (0.8 - faint) * (1 - number / len(shown)) ** (2 if faint > 0.1 else 6):.2f}"
        look = {"class_": "line best" if trial.key == best else "line"}
        look |= {} if trial.key == best else {"stroke_opacity": strength}
        at = " ".join(f"{y:.1f}" for y in places)
        parts.append(tag("path", d=path, **look, data_key=trial.key, data_say=say(trial), data_at=at))
    for i, (x, each) in enumerate(zip(across, axes, strict=True)):
        parts += _axis(x, each, i)
    if missing:
        parts.append(text("not set", 0, UNSET + 4))
    # Drawn before them, the lines lie under the grips: a mark is asked where no axis is.
    return svg(parts, width, height, "Parallel coordinates of all trials", id="parallel")


def _axis(x: float, each: Axis, number: int) -> list[Markup]:
    parts = [line(x, TOP, x, BOTTOM, look="range"), text(cut(each.name, 22), x, 14, anchor="middle", look="name")]
    for words, y in each.ticks:
        parts += [line(x - 4, y, x + 4, y, look="range"), text(cut(words, 12), x + 8, y + 4, look="halo")]
    where: dict[str, Any] = {"x": f"{x - 14:.1f}", "width": 28}
    parts.append(tag("rect", **where, y=TOP - 8, height=UNSET - TOP + 18, class_="grip", data_axis=number))
    return [*parts, tag("rect", **where, y=TOP, height=0, class_="brush")]


def say(trial: Trial) -> str:
    """Say in words which trial a line is."""
    score = "not evaluated" if trial.miou is None else f"mIoU {trial.miou:.4f}"
    return f"{trial.key}: {score}\n{describe(trial.point)}\n{trial.state} at step {trial.step}"


def curves(trials: Sequence[Trial], name: str, value_name: str) -> Markup | None:
    """Draw a figure of all trials over their steps, the best few in colour and named; None where none has it."""
    drawn = {t.key: thinned(t.curves[name]) for t in trials if t.curves.get(name)}
    if not drawn:
        return None
    shown = [t for t in trials if t.key in drawn]
    points = [point for each in drawn.values() for point in each]
    right, left, width, height, under = 96.0, 62.0, 1180.0, 260.0, 40.0
    low, high = min(v for _, v in points), max(v for _, v in points)
    high = high if high > low else low + 1e-3
    last = max(step for step, _ in points) or 1

    def place(step: float, value: float) -> tuple[float, float]:
        y = 26 + (height - under - 26) * (1 - (value - low) / (high - low))
        return left + step / last * (width - left - right), y

    parts = [line(left, place(0, v)[1], width - right, place(0, v)[1]) for v in ticks(low, high)]
    parts += [text(f"{v:.3g}", left - 8, place(0, v)[1] + 4, anchor="end") for v in ticks(low, high)]
    parts += [text(f"{v:g}", place(v, low)[0], height - under + 18, anchor="middle") for v in ticks(0, last, 8)]
    parts.append(text(value_name, 0, 10, look="name"))
    parts.append(text("optimizer step", width - right, height - 4, anchor="end", look="name"))
    for number, trial in reversed([*enumerate(shown)]):
        parts += _curve(trial, [place(*point) for point in drawn[trial.key]], number)
    ends = {t.key: place(*drawn[t.key][-1])[1] for t in shown[:NAMED]}
    return svg([*parts, *_names(ends, width - right + 8, height - 8)], width, height, f"{value_name} over steps")


def _curve(trial: Trial, places: Sequence[tuple[float, float]], number: int) -> list[Markup]:
    path = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(places))
    about = {"data_key": trial.key, "data_say": say(trial)}
    if number >= NAMED:
        return [tag("path", d=path, class_="line rest", **about)]
    look = f"stroke:{HUES[number]};stroke-width:2.2"
    x, y = places[-1]
    end = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4, fill=HUES[number], **about)
    return [tag("path", d=path, class_="line", style=look, stroke_dasharray=DASHES[number], **about), end]


def _names(ends: Mapping[str, float], x: float, lowest: float) -> list[Markup]:
    """Write the names in the order of the curves' ends, none over another and none below `lowest`."""
    parts, before = [], 0.0
    colors = dict(zip(ends, HUES, strict=False))
    for left, (key, y) in enumerate(sorted(ends.items(), key=lambda each: each[1]), start=1 - len(ends)):
        before = min(max(y, before + 15), lowest + 15 * left)
        square = tag("rect", x=x, y=f"{before - 5:.1f}", width=9, height=9, fill=colors[key])
        parts += [square, text(cut(key, 10), x + 13, before + 4, look="value")]
    return parts


def thinned(curve: Curve) -> Curve:
    """Keep every few points of a long curve, its first and its last among them."""
    every = math.ceil(len(curve) / MOST_POINTS)
    kept = curve[::every]
    return kept if kept[-1] == curve[-1] else (*kept, curve[-1])

"""Charts of the audit page: shares as strips and bars, sizes as bubbles, ignored shares as a histogram. Pure markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rayseg.data.card import Card, Color
from rayseg.data.index import Index
from rayseg.data.markup import Markup, isolated, tag

LOWEST = 1e-5
"""Where the logarithmic bars begin: 0.001 %."""
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, one a split
Sizes = dict[tuple[int, int], int]
"""How many samples there are of each (height, width)."""
_BINS = 20
_MOST_SIZES = 300


def hue(split: int) -> str:
    """Give the colour of the split with that number."""
    return HUES[split % len(HUES)]


def sizes(rows: Index) -> Sizes:
    """Count the heights and widths."""
    found, counts = np.unique(np.stack([rows.height, rows.width], 1), axis=0, return_counts=True)
    return {(int(height), int(width)): int(n) for (height, width), n in zip(found, counts, strict=True)}


def css(color: Color) -> str:
    """Write a colour."""
    return "rgb({},{},{})".format(*color)


def swatch(color: Color | None) -> Markup:
    """Show a colour as a small square; None is what counts for nothing."""
    style = f"background:{css(color)}" if color else None
    return tag("i", class_="swatch" if color else "swatch ignored", style=style)


def percent(share: float) -> str:
    """Write a share with two digits that say something: 12 %, 1.2 %, 0.012 %."""
    if share <= 0:
        return "0 %"
    digits = max(0, 1 - math.floor(math.log10(100 * share)))
    return f"{100 * share:.{min(digits, 4)}f} %" if share >= 1e-6 else "< 0.0001 %"


def strip(shares: Sequence[float], card: Card) -> Markup:
    """Draw the classes' shares, and last the ignored one's, side by side; they add up to the whole width."""
    parts = []
    for label, share in enumerate(shares):
        ignored = label == card.num_classes
        name = "ignored" if ignored else card.class_names[label]
        color = None if ignored else f"background:{css(card.classes[label].color)};"
        style = f"{color or ''}width:{100 * share:.4f}%"
        parts.append(tag("i", class_="ignored" if ignored else None, style=style, title=f"{name}: {percent(share)}"))
    return tag("div", parts, class_="strip")


def bar(share: float, color: Color | None) -> Markup:
    """Draw a share on a logarithmic scale from 0.001 % to 100 %."""
    length = 0.0 if share <= 0 else max(0.01, 1 + math.log10(share) / -math.log10(LOWEST))
    style = f"width:{100 * length:.2f}%" + (f";background:{css(color)}" if color else "")
    return tag("span", tag("i", style=style, class_=None if color else "ignored"), class_="bar")


def histogram(shares: Mapping[str, ArrayLike]) -> Markup:
    """Draw how many of each split's samples have which ignored share, in twenty bins."""
    counts = {name: np.histogram(np.asarray(s), _BINS, (0, 1))[0] / max(np.size(s), 1) for name, s in shares.items()}
    top = max(float(c.max()) for c in counts.values()) or 1.0
    width, height, step = 600, 150, 600 / _BINS
    bars = []
    for number, (name, heights) in enumerate(counts.items()):
        thick = (step - 4) / len(counts)
        for place, part in enumerate(heights.tolist()):
            tall = math.sqrt(part / top) * (height - 10)  # a root: the few odd ones are what one looks for
            said = tag("title", f"{name}: {percent(part)} of the samples have {5 * place}-{5 * place + 5} % ignored")
            x = place * step + 2 + number * thick
            bars.append(tag("rect", said, x=f"{x:.1f}", y=f"{height - tall:.1f}", width=f"{thick:.1f}",
                            height=f"{tall:.1f}", fill=hue(number)))  # fmt: skip
    ticks = [
        _text(f"{20 * i} %", 120 * i, height + 16, ("start", "middle", "end")[(i > 0) + (i == 5)]) for i in range(6)
    ]
    axis = tag("line", x1=0, x2=width, y1=height, y2=height, class_="axis")
    return _svg([*bars, axis, *ticks], width, height + 22, "Share of ignored pixels in a sample")


def bubbles(found: Mapping[str, Sizes]) -> Markup:
    """Draw how many samples there are of each height and width, by area."""
    points = [(size, n, i) for i, one in enumerate(found.values()) for size, n in one.items()]
    points = sorted(points, key=lambda point: -point[1])[:_MOST_SIZES]
    side, longest = 320.0, 1.08 * max(max(size) for size, _, _ in points)
    most, circles = max(n for _, n, _ in points), []
    for (height, width), n, number in points:
        said = tag("title", f"{list(found)[number]}: {n} of {height}x{width}")
        where = {"cx": f"{width / longest * side:.1f}", "cy": f"{side - height / longest * side:.1f}"}
        look = {"r": f"{2 + 14 * math.sqrt(n / most):.1f}", "fill": hue(number), "class_": "bubble"}
        circles.append(tag("circle", said, **where, **look))
    frame = tag("path", d=f"M0 0V{side}H{side}M0 {side}L{side} 0", class_="axis")
    return _svg([frame, *circles, *_ticks(side, longest)], 320, 342, "Heights and widths of the samples")


def _ticks(side: float, longest: float) -> list[Markup]:
    """Number both axes in round steps, three to seven of them."""
    unit = 10.0 ** math.floor(math.log10(longest / 3))
    step = max(unit * times for times in (1, 2, 5) if longest / (unit * times) >= 3)
    places = [(step * i, step * i / longest * side) for i in range(1, int(longest / step) + 1)]
    across = [_text(f"{value:g}", at, side + 16, "middle") for value, at in places]
    return [*across, *(_text(f"{value:g}", 4, side - at + 4, "start") for value, at in places)]


def key_of(splits: Sequence[str]) -> Markup:
    """Say which split has which colour."""
    squares = [tag("i", class_="swatch", style=f"background:{hue(i)}") for i in range(len(splits))]
    entries = [tag("span", square, isolated(name)) for square, name in zip(squares, splits, strict=True)]
    return tag("p", entries, class_="key")


def _text(words: str, x: float, y: float, anchor: str) -> Markup:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(parts: Sequence[object], width: int, height: int, about: str) -> Markup:
    return tag(
        "svg",
        parts,
        viewBox=f"-4 -4 {width + 8} {height + 8}",
        role="img",
        aria_label=about,
        style=f"max-width:{width}px",
    )

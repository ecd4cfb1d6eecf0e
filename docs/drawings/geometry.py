"""Where the parts of a drawing lie: boxes, arrows with labels, frames, and whether they meet.

Text is measured for DejaVu Sans, which is wider than what most viewers take in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROW = 62.0
WIDTH, LINE, PADDING = 80.0, 15.0, 7.0
TEXT, SMALL = 12.5, 11.0
CIRCLE = 12.0
Point = tuple[float, float]


class Rectangle(NamedTuple):
    """Left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Rectangle) -> bool:
        """Say whether the two have an area in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        return across > 0.5 and min(self.bottom, other.bottom) - max(self.top, other.top) > 0.5

    def grown(self, by: float) -> Rectangle:
        """Give it with a margin."""
        return Rectangle(self.left - by, self.top - by, self.right + by, self.bottom + by)


def around(areas: Iterable[Rectangle]) -> Rectangle:
    """Give the smallest that holds all."""
    left, top, right, bottom = zip(*areas, strict=True)
    return Rectangle(min(left), min(top), max(right), max(bottom))


class Box(NamedTuple):
    """An operation: where it stands, what it says, which module it is (may be none) and what its output's shape is."""

    x: float
    y: float
    lines: tuple[str, ...]
    kind: str
    of: str
    shape: str
    width: float
    height: float

    @property
    def area(self) -> Rectangle:
        """Give where it is."""
        half = self.width / 2, self.height / 2
        return Rectangle(self.x - half[0], self.y - half[1], self.x + half[0], self.y + half[1])

    @property
    def overflows(self) -> bool:
        """Say whether its text is wider or higher than it is."""
        return max(map(text_width, self.lines)) > self.width - 4 or len(self.lines) * LINE > self.height

    def side(self, y: float) -> float:
        """Give its edge towards `y`."""
        return self.area.top if y < self.y else self.area.bottom


class Arrow(NamedTuple):
    """A path from a box to a box, the text beside it, and whether it is there in training only."""

    ends: tuple[str, str]
    points: tuple[Point, ...]
    label: tuple[tuple[Point, str], ...]
    dashed: bool

    @property
    def label_areas(self) -> list[Rectangle]:
        """Give where the text is."""
        found = []
        for (x, y), text in self.label:
            half = text_width(text, SMALL) / 2
            found.append(Rectangle(x - half, y - SMALL * 0.8, x + half, y + 1))
        return found

    def hits(self, area: Rectangle) -> bool:
        """Say whether the path goes through an area."""
        legs = (around(Rectangle(*p, *p) for p in leg).grown(1) for leg in itertools.pairwise(self.points))
        return any(leg.meets(area) for leg in legs)


class Frame(NamedTuple):
    """A titled frame around the boxes that a module consists of."""

    title: str
    of: str
    area: Rectangle

    @property
    def title_area(self) -> Rectangle:
        """Give where the title is."""
        left, top = self.area[:2]
        return Rectangle(left + 8, top + 5, left + 8 + 1.1 * text_width(self.title), top + 20)


def text_width(text: str, size: float = TEXT) -> float:
    """Estimate a text's width from above."""
    narrow = sum(c in " .,:;|iIjl()'·" for c in text)
    return size * (0.62 * (len(text) - narrow) + 0.36 * narrow)


def path(a: Box, b: Box, turns: str, at: float) -> tuple[Point, ...]:
    """Lead from a box to a box: see `Drawing.join`."""
    right = 1 if b.x >= a.x else -1
    out_x, in_x = a.x + right * a.width / 2, b.x - right * b.width / 2
    if turns == "hv":
        return (out_x, a.y), (b.x, a.y), (b.x, b.side(a.y))
    if turns == "vh":
        return (a.x, a.side(b.y)), (a.x, b.y), (in_x, b.y)
    if turns == "v":
        return (a.x, a.side(b.y)), (a.x, b.side(a.y))
    if turns == "vhv":
        y = at * ROW
        return (a.x, a.side(y)), (a.x, y), (b.x, y), (b.x, b.side(y))
    if b.area.top + 4 < a.y < b.area.bottom - 4:
        return (out_x, a.y), (in_x, a.y)
    if a.area.top + 4 < b.y < a.area.bottom - 4:
        return (out_x, b.y), (in_x, b.y)
    middle = out_x + at * (in_x - out_x)
    return (out_x, a.y), (middle, a.y), (middle, b.y), (in_x, b.y)


def label(points: Sequence[Point], shape: Sequence[int]) -> tuple[tuple[Point, str], ...]:
    """Place a shape at the first horizontal leg of a path, channels above and pixels below; or right of a vertical."""
    if not shape:
        return ()
    channels, *pixels = map(str, shape)
    if len(pixels) == 1:  # tokens and their width
        channels, pixels = f"{channels}×{pixels[0]}", []
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        if y1 == y2 and abs(x2 - x1) > 12:
            middle = (x1 + x2) / 2
            below = (((middle, y1 + SMALL + 2), "×".join(pixels)),) if pixels else ()
            return ((middle, y1 - 5), channels), *below
    (x, y1), (_, y2) = points[:2]
    text = "×".join([channels, *pixels])
    return (((x + 7 + text_width(text, SMALL) / 2, (y1 + y2) / 2 + SMALL / 3), text),)

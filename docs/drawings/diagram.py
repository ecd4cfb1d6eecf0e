"""A head's data flow as SVG: boxes on a grid, arrows labelled with measured shapes, and what would not be readable.

Above an arrow stand the channels, below it height x width. Text is laid out for DejaVu Sans, which is wider than what
most viewers take in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from measured import Measured, Setting

COLUMN, ROW = 132.0, 62.0
WIDTH, LINE, PADDING = 80.0, 15.0, 7.0
TEXT, SMALL = 12.5, 11.0
CIRCLE = 12.0
MARGIN = 14.0
DISPLAYED = 900
COLOURS = {  # kind: fill, edge
    "backbone": ("#e5e7eb", "#6b7280"),
    "plain": ("#ffffff", "#4b5563"),
    "context": ("#dbeafe", "#2563eb"),
    "attention": ("#ffedd5", "#ea580c"),
    "classifier": ("#dcfce7", "#16a34a"),
    "circle": ("#ffffff", "#4b5563"),
    "words": ("none", "none"),
}
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


class Arrow(NamedTuple):
    """A path from a box to a box, and the text beside it."""

    ends: tuple[str, str]
    points: tuple[Point, ...]
    label: tuple[tuple[Point, str], ...]
    dashed: bool


class Drawing:
    """Boxes, arrows and groups of one head; `setting` is what the shapes are measured with."""

    def __init__(self, name: str, setting: Setting, *, column: float = COLUMN) -> None:
        self.name, self.setting, self.column = name, setting, column
        self.measured = Measured(setting)
        self.boxes: dict[str, Box] = {}
        self.arrows: list[Arrow] = []
        self.groups: list[tuple[str, str, Rectangle]] = []
        self.labelled: set[str] = set()

    # --- what a layout calls ----------------------------------------------------------------------------------------

    def box(
        self,
        name: str,
        at: Point,
        text: str = "{}",
        *,
        of: str = "",
        kind: str = "plain",
        shape: str = "",
        rows: float = 0,
        wide: float = 1,
    ) -> None:
        """Add a box at (column, row). In `text`, `{}` are the layers of module `of`, `{C}` and `{N}` its channels and
        pixels, `{first}` and `{last}` the outer of its layers; `shape` names the output's shape where it is not that
        module's; `rows` makes it as tall as these.
        """
        assert name not in self.boxes, name
        lines = tuple(self._filled(text, of, shape or of).split("\n"))
        height = max(len(lines) * LINE + 2 * PADDING, rows * ROW + 2 * PADDING + LINE)
        width = WIDTH * wide
        if kind == "circle":
            width = height = 2 * CIRCLE
        if kind == "words":
            width = max(map(text_width, lines)) + 8
        self.boxes[name] = Box(at[0] * self.column, at[1] * ROW, lines, kind, of, shape or of, width, height)

    def _filled(self, text: str, of: str, shape: str) -> str:
        if "{" in text and of:
            layers = self.measured.layers(of)
            text = text.replace("{}", "\n".join(layers)) if "{}" in text else text
            text = text.replace("{first}", layers[0]).replace("{last}", layers[-1]) if layers else text
        if "{C}" in text or "{N}" in text:
            channels, *pixels = self.measured.shapes[shape]
            text = text.replace("{C}", str(channels)).replace("{N}", str(int(pixels[0]) * int(pixels[-1])))
        return text

    def add(self, name: str, at: Point, sign: str = "+", *, shape: str = "") -> None:
        """Add a sum, a product or another sign in a circle."""
        self.box(name, at, sign, kind="circle", shape=shape)

    def flow(self, *names: str) -> None:
        """Join boxes one after the other by straight arrows."""
        for source, target in itertools.pairwise(names):
            self.join(source, target)

    def join(
        self,
        source: str,
        target: str,
        turns: str = "h",
        *,
        row: float = 0,
        bend: float = 0.5,
        label: bool | None = None,
        training: bool = False,
    ) -> None:
        """Draw an arrow. `turns` are its directions: "h" (where rows differ, with two turns, at `bend` of the way),
        "hv", "vh", "v", and "vhv" by way of `row`. A source's shape stands at its first arrow unless `label` differs.
        """
        a, b = self.boxes[source], self.boxes[target]
        points = _path(a, b, turns, row * ROW, bend)
        wanted = source not in self.labelled if label is None else label
        shape = self.measured.shapes[a.shape] if wanted and a.shape else ()
        self.labelled |= {source} if shape else set()
        self.arrows.append(Arrow((source, target), points, _label(points, shape), training))

    def group(self, title: str, names: Sequence[str], *, of: str) -> None:
        """Frame boxes that module `of` consists of."""
        areas = [self.boxes[name].area for name in names]
        corners = zip(*areas, strict=True)
        left, top, right, bottom = (pick(values) for pick, values in zip((min, min, max, max), corners, strict=True))
        inside = [a for a in self.arrows if set(a.ends) & set(names)]
        bottom = max([bottom, *(y for a in inside for _, y in a.points)])
        right = max([right, *(area.right for a in inside for area in _label_areas(a))])
        self.groups.append((title, of, Rectangle(left - 12, top - 34, right + 12, bottom + 12)))

    # --- what is asserted of it -------------------------------------------------------------------------------------

    def drawn(self) -> set[str]:
        """Name the modules that boxes and frames stand for."""
        return {box.of for box in self.boxes.values() if box.of} | {of for _, of, _ in self.groups}

    def faults(self) -> list[str]:
        """List what would not be readable: texts wider than their place, things on top of each other."""
        faults = [f"text of {n} is too wide" for n, b in self.boxes.items() if b.kind != "circle" and _too_wide(b)]
        areas = [(n, b.area) for n, b in self.boxes.items()]
        labels = [(f"label of {a.ends}", area) for a in self.arrows for area in _label_areas(a)]
        titles = [(f"title {t}", _title_area(t, area)) for t, _, area in self.groups]
        for (m, one), (n, other) in itertools.combinations(areas + labels + titles, 2):
            if one.meets(other):
                faults.append(f"{m} on {n}")
        for arrow in self.arrows:
            faults += [f"{arrow.ends} through {n}" for n, area in areas if n not in arrow.ends and _hits(arrow, area)]
            own = _label_areas(arrow)
            faults += [f"{arrow.ends} through {n}" for n, area in labels if area not in own and _hits(arrow, area)]
            faults += [f"{arrow.ends} through {n}" for n, area in titles if _hits(arrow, area)]
        return faults

    # --- SVG --------------------------------------------------------------------------------------------------------

    def svg(self) -> str:
        """Write it."""
        caption = f"{self.setting}. Dashed: in training only."
        if not any(arrow.dashed for arrow in self.arrows):
            caption = f"{self.setting}."
        everything = [b.area for b in self.boxes.values()] + [area for _, _, area in self.groups]
        everything += [Rectangle(x, y, x, y) for a in self.arrows for x, y in a.points]
        everything += [area for a in self.arrows for area in _label_areas(a)]
        left, top = min(r.left for r in everything) - MARGIN, min(r.top for r in everything) - MARGIN
        right, bottom = max(r.right for r in everything) + MARGIN, max(r.bottom for r in everything) + MARGIN + 20
        right = max(right, left + 2 * MARGIN + text_width(caption, SMALL))
        width, height = right - left, bottom - top
        scale = min(1.0, DISPLAYED / width)
        body = [_group(*g) for g in self.groups] + [_arrow(a) for a in self.arrows]
        body += [_box(b) for b in self.boxes.values()]
        body.append(_words(left + MARGIN, bottom - MARGIN, caption, SMALL, "#6b7280", anchor="start"))
        return "\n".join([_head(left, top, width, height, scale, self.name), *body, "</svg>", ""])


# --- geometry -------------------------------------------------------------------------------------------------------


def text_width(text: str, size: float = TEXT) -> float:
    """Estimate a text's width from above."""
    narrow = sum(c in " .,:;|iIjl()'·" for c in text)
    return size * (0.62 * (len(text) - narrow) + 0.36 * narrow)


def _too_wide(box: Box) -> bool:
    return max(map(text_width, box.lines)) > box.width - 4 or len(box.lines) * LINE > box.height


def _path(a: Box, b: Box, turns: str, row: float, bend: float) -> tuple[Point, ...]:
    right = 1 if b.x >= a.x else -1
    out_x, in_x = a.x + right * a.width / 2, b.x - right * b.width / 2
    if turns == "h":
        if b.area.top + 4 < a.y < b.area.bottom - 4:
            return (out_x, a.y), (in_x, a.y)
        if a.area.top + 4 < b.y < a.area.bottom - 4:
            return (out_x, b.y), (in_x, b.y)
        middle = out_x + bend * (in_x - out_x)
        return (out_x, a.y), (middle, a.y), (middle, b.y), (in_x, b.y)
    if turns == "hv":
        return (out_x, a.y), (b.x, a.y), (b.x, _side(b, a.y))
    if turns == "vh":
        return (a.x, _side(a, b.y)), (a.x, b.y), (in_x, b.y)
    if turns == "v":
        return (a.x, _side(a, b.y)), (a.x, _side(b, a.y))
    if turns == "vhv":
        return (a.x, _side(a, row)), (a.x, row), (b.x, row), (b.x, _side(b, row))
    raise ValueError(f"turns = {turns!r}")


def _side(box: Box, y: float) -> float:
    return box.area.top if y < box.y else box.area.bottom


def _label(points: tuple[Point, ...], shape: tuple[int, ...]) -> tuple[tuple[Point, str], ...]:
    """Place a shape at the first horizontal part of a path, channels above and pixels below; or right of a vertical."""
    if not shape:
        return ()
    channels, pixels = str(shape[0]), "×".join(map(str, shape[1:]))
    if len(shape) == 2:  # tokens and their width
        channels, pixels = f"{shape[0]}×{shape[1]}", ""
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        if y1 == y2 and abs(x2 - x1) > 12:
            middle = (x1 + x2) / 2
            below = (((middle, y1 + SMALL + 2), pixels),) if pixels else ()
            return ((middle, y1 - 5), channels), *below
    (x, y1), (_, y2) = points[:2]
    text = f"{channels}×{pixels}"
    return (((x + 7 + text_width(text, SMALL) / 2, (y1 + y2) / 2 + SMALL / 3), text),)


def _label_areas(arrow: Arrow) -> list[Rectangle]:
    found = []
    for (x, y), text in arrow.label:
        half = text_width(text, SMALL) / 2
        found.append(Rectangle(x - half, y - SMALL * 0.8, x + half, y + 1))
    return found


def _title_area(title: str, frame: Rectangle) -> Rectangle:
    return Rectangle(frame.left + 8, frame.top + 5, frame.left + 8 + 1.1 * text_width(title), frame.top + 20)


def _hits(arrow: Arrow, area: Rectangle) -> bool:
    for (x1, y1), (x2, y2) in itertools.pairwise(arrow.points):
        if Rectangle(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)).grown(1).meets(area):
            return True
    return False


# --- elements -------------------------------------------------------------------------------------------------------


def _head(left: float, top: float, width: float, height: float, scale: float, name: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{scale * width:.0f}" height="{scale * height:.0f}" '
        f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" font-family="DejaVu Sans, Verdana, Arial, sans-serif" '
        f'font-size="{TEXT}">\n<title>Data flow of {escape(name)}</title>\n'
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 8 4 0 7.2z" fill="#374151"/></marker></defs>\n'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="#ffffff"/>'
    )


def _box(box: Box) -> str:
    fill, edge = COLOURS[box.kind]
    area, found = box.area, []
    if box.kind == "circle":
        found = [f'<circle cx="{box.x:.1f}" cy="{box.y:.1f}" r="{CIRCLE}" fill="{fill}" stroke="{edge}"/>']
    elif box.kind != "words":
        place = f'x="{area.left:.1f}" y="{area.top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        found = [f'<rect {place} rx="5" fill="{fill}" stroke="{edge}" stroke-width="1.2"/>']
    first = box.y - (len(box.lines) - 1) * LINE / 2 + TEXT * 0.35
    return "\n".join(found + [_words(box.x, first + i * LINE, text) for i, text in enumerate(box.lines)])


def _arrow(arrow: Arrow) -> str:
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in arrow.points)
    dash = ' stroke-dasharray="4 3"' if arrow.dashed else ""
    line = f'<path d="{path}" fill="none" stroke="#374151" stroke-width="1.2"{dash} marker-end="url(#end)"/>'
    return "\n".join([line, *(_words(x, y, text, SMALL, "#4b5563") for (x, y), text in arrow.label)])


def _group(title: str, of: str, area: Rectangle) -> str:
    place = f'x="{area.left:.1f}" y="{area.top:.1f}" width="{area.right - area.left:.1f}" '
    place += f'height="{area.bottom - area.top:.1f}"'
    frame = f'<rect {place} rx="8" fill="#f9fafb" stroke="#9ca3af" stroke-dasharray="2 3"/>'
    return frame + "\n" + _words(area.left + 8, area.top + 17, title, TEXT, "#111827", anchor="start", bold=True)


def _words(
    x: float,
    y: float,
    text: str,
    size: float = TEXT,
    colour: str = "#111827",
    *,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    style = "" if size == TEXT else f' font-size="{size}"'
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{style}{weight}>{escape(text)}</text>'

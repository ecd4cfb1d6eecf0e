"""Write boxes, arrows and frames as SVG: text stays text, and the bytes depend on the drawing alone."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from geometry import CIRCLE, LINE, SMALL, TEXT, Arrow, Box, Frame, Point, Rectangle, around, text_width

MARGIN = 14.0
DISPLAYED = 900
"""Pixels across at which a page shows a drawing, at most."""
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"
LINES, WORDS, QUIET = "#374151", "#111827", "#4b5563"
COLOURS = {  # kind: fill, edge
    "backbone": ("#e5e7eb", "#6b7280"),
    "plain": ("#ffffff", "#4b5563"),
    "context": ("#dbeafe", "#2563eb"),
    "attention": ("#ffedd5", "#ea580c"),
    "classifier": ("#dcfce7", "#16a34a"),
    "circle": ("#ffffff", "#4b5563"),
    "words": ("none", "none"),
}


def document(title: str, caption: str, boxes: Sequence[Box], arrows: Sequence[Arrow], frames: Sequence[Frame]) -> str:
    """Write a whole picture, no wider than `DISPLAYED`."""
    areas = [b.area for b in boxes] + [frame.area for frame in frames]
    areas += [Rectangle(x, y, x, y) for a in arrows for x, y in a.points]
    areas += [area for a in arrows for area in a.label_areas]
    inner = around(areas)
    right = max(inner.right, inner.left + text_width(caption, SMALL))
    page = Rectangle(*inner[:2], right, inner.bottom + 20).grown(MARGIN)
    body = [*map(_frame, frames), *map(_arrow, arrows), *map(_box, boxes)]
    body.append(_words((inner.left, inner.bottom + 20), caption, size=SMALL, fill="#6b7280", start=True))
    return "\n".join([_head(title, page), *body, "</svg>", ""])


def _head(title: str, page: Rectangle) -> str:
    width, height = page.right - page.left, page.bottom - page.top
    scale = min(1.0, DISPLAYED / width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{scale * width:.0f}" height="{scale * height:.0f}" '
        f'viewBox="{page.left:.1f} {page.top:.1f} {width:.1f} {height:.1f}" '
        f'font-family="{FONT}" font-size="{TEXT}">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 8 4 0 7.2z" fill="{LINES}"/></marker></defs>\n'
        f'<rect {_place(page)} fill="#ffffff"/>'
    )


def _place(area: Rectangle) -> str:
    width, height = area.right - area.left, area.bottom - area.top
    return f'x="{area.left:.1f}" y="{area.top:.1f}" width="{width:.1f}" height="{height:.1f}"'


def _box(box: Box) -> str:
    fill, edge = COLOURS[box.kind]
    found = []
    if box.kind == "circle":
        found = [f'<circle cx="{box.x:.1f}" cy="{box.y:.1f}" r="{CIRCLE}" fill="{fill}" stroke="{edge}"/>']
    elif box.kind != "words":
        found = [f'<rect {_place(box.area)} rx="5" fill="{fill}" stroke="{edge}" stroke-width="1.2"/>']
    first = box.y - (len(box.lines) - 1) * LINE / 2 + TEXT * 0.35
    return "\n".join(found + [_words((box.x, first + i * LINE), text) for i, text in enumerate(box.lines)])


def _arrow(arrow: Arrow) -> str:
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in arrow.points)
    dash = ' stroke-dasharray="4 3"' if arrow.dashed else ""
    line = f'<path d="{path}" fill="none" stroke="{LINES}" stroke-width="1.2"{dash} marker-end="url(#end)"/>'
    return "\n".join([line, *(_words(point, text, size=SMALL, fill=QUIET) for point, text in arrow.label)])


def _frame(frame: Frame) -> str:
    rectangle = f'<rect {_place(frame.area)} rx="8" fill="#f9fafb" stroke="#9ca3af" stroke-dasharray="2 3"/>'
    title = _words((frame.area.left + 8, frame.area.top + 17), frame.title, start=True, bold=True)
    return f"{rectangle}\n{title}"


def _words(
    at: Point, text: str, *, size: float = TEXT, fill: str = WORDS, start: bool = False, bold: bool = False
) -> str:
    style = "" if size == TEXT else f' font-size="{size}"'
    style += ' font-weight="bold"' if bold else ""
    anchor = "start" if start else "middle"
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" fill="{fill}"{style}>{escape(text)}</text>'

"""The calibration: what the papers publish about sizes and costs beside what rayseg's modules count to, live.

`rayseg models --paper-figures` prints it. A figure that comes out says that the module is built as the paper's was.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rayseg.calibration.cells import NOTES, Cell, cells
from rayseg.calibration.counting import CONVENTIONS

AGREES_PERCENT = 1.0
"""How far a count may be off a cell that it does not round to, and still agree."""
WIDTH = 120


class Row(NamedTuple):
    """A published cell beside our count. Where cells contradict each other, `verdict` says that alone."""

    source: str
    what: str
    published: str
    ours: float
    difference_percent: float
    unit: str
    convention: str
    kind: Literal["direct", "fitted"]
    verdict: Literal["agrees", "differs", "contradicted"]
    notes: str


def rows() -> list[Row]:
    """Count everything, on the meta device: seconds, no weights."""
    return [_row(cell) for cell in cells()]


def _row(cell: Cell) -> Row:
    convention = CONVENTIONS[cell.convention]
    ours = cell.ours() / convention.scale
    percent = 100 * (ours / float(cell.published) - 1)
    decimals = len(cell.published.partition(".")[2])
    agrees = f"{ours:.{decimals}f}" == cell.published or abs(percent) <= AGREES_PERCENT
    verdict: Literal["agrees", "differs", "contradicted"] = "agrees" if agrees else "differs"
    if cell.contradicted:
        verdict = "contradicted"
    return Row(*cell[:3], ours, percent, convention.unit, cell.convention, cell.kind, verdict, cell.notes)


def text(table: Sequence[Row]) -> list[str]:
    """Lay rows out in lines of at most 120 columns, with a legend of the conventions and notes that they name."""
    head = f"{'source':16}{'what':28}{'published':>10}{'ours':>12}{'off %':>8}  {'unit':7}{'counted':12}{'kind':8}"
    lines = [head + "verdict"]
    for r in table:
        numbers = f"{r.published:>10}{r.ours:12.4f}{r.difference_percent:+8.2f}"
        lines.append(
            f"{r.source:16}{r.what:28}{numbers}  {r.unit:7}{r.convention:12}{r.kind:8}{r.verdict} {r.notes}".rstrip()
        )
    return [*lines, "", *_legend(table)]


def _legend(table: Sequence[Row]) -> list[str]:
    named = {row.convention for row in table}
    entries = {name: how.rules for name, how in CONVENTIONS.items() if name in named}
    entries["direct"] = "a known architecture, counted"
    entries["fitted"] = "an architecture that was chosen because it gives the cell"
    entries["agrees"] = f"rounds to the cell, or is at most {AGREES_PERCENT:g} % off it"
    entries["differs"] = "is further off: the notes say why"
    entries["contradicted"] = "the published cells contradict each other, or cannot be: nothing to be met"
    entries |= {letter: note for letter, note in NOTES.items() if any(letter in row.notes for row in table)}
    wrapped = [textwrap.wrap(f"{n:14}{rules}", WIDTH, subsequent_indent=" " * 14) for n, rules in entries.items()]
    return [line for entry in wrapped for line in entry]

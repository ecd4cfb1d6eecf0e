"""A table as text and as plain types: the paper's figure and ours in each row, each with its data set and steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from rayseg import recipe
from rayseg.config import RunConfig
from rayseg.sweep.trial import short
from rayseg.tables.asked import Asked, changed, differences, seen
from rayseg.tables.figures import Found, Ours
from rayseg.tables.form import Table

WIDTH = 120
NAMED = 8
"""So many changed settings are named."""


class Page(NamedTuple):
    """All that is printed of a table; `card` is the data set of our runs."""

    asked: Asked
    found: Found
    card: str


def listing(tables: Sequence[Table]) -> list[str]:
    """Name the tables: title, data set of the paper's figures, how many rows a training makes."""
    lines = [f"{'name':11}{'source':26}{'paper on':12}{'rows run':>9}  title"]
    for table in tables:
        count = f"{len(table.points())} of {len(table.rows)}"
        lines.append(f"{table.name:11}{table.source:26}{_papers(table):12}{count:>9}  {table.title}")
    return lines


def lines(page: Page) -> list[str]:
    """Write a table down, first of all whether its two columns may be compared."""
    asked, table = page.asked, page.asked.table
    body = [f"{table.name}: {table.title} ({table.source})", *_verdict(page)]
    steps = f"{table.steps} steps" if table.steps else "steps not given"
    body += _wrapped(f"paper: mIoU in percent on {_papers(table)} val, {steps}; {table.tested}")
    there = f"{page.card}, {seen(asked)}, at step {asked.config.train.steps}"
    body += _wrapped(f"ours:  mIoU in percent on {there}; {_views(asked.config)}")
    body += _wrapped(f"recipe {asked.recipe}{_set(asked)}{_changed(asked)}")
    cells = [["row", "paper", "on", "ours", "seeds", "on", "steps", ""]]
    for line, ours in zip(asked.lines, page.found.rows, strict=True):
        figure = line.row.published or "-"
        note = line.row.note if ours.miou or line.trials else line.why
        where = [page.card, str(asked.config.train.steps)] if ours.miou else ["-", "-"]
        note = note if ours.miou or not line.trials else "; ".join(filter(None, ("no such run yet: --run", note)))
        cells.append([line.row.label, figure, _papers(table), _figure(ours), str(len(ours.miou) or "-"), *where, note])
    return [*body, "", *_aligned(cells)]


def _verdict(page: Page) -> list[str]:
    found = differences(page.asked, page.card)
    if not found:
        return _wrapped("Same data set, steps and start as the paper's; compare figures with its spread in mind.")
    words = "NOT COMPARABLE with the paper's figures: " + "; ".join(found) + ". Compare rows of ours with rows of ours."
    return _wrapped(words)


def _views(config: RunConfig) -> str:
    return f"each image seen once ({config.while_training().test})"


def _set(asked: Asked) -> str:
    return "".join(f", {name}={short(value)}" for name, value in asked.settings.items())


def _changed(asked: Asked) -> str:
    names = [name for name in changed(asked) if name not in asked.settings]
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; beside the paper's recipe {asked.table.recipe} these differ too: {', '.join(names[:NAMED])}{more}"


def _figure(ours: Ours) -> str:
    if ours.mean is None:
        return "-"
    return f"{ours.mean:.2f}" + ("" if ours.spread is None else f" ± {ours.spread:.2f}")


def _papers(table: Table) -> str:
    return recipe.load(table.recipe).dataset


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="       ")


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    right = {1, 3, 4, 6}
    padded = [
        [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    return ["  ".join(line).rstrip() for line in padded]


def plain(page: Page) -> dict[str, Any]:
    """Give the same in plain types; figures in percent."""
    asked, table = page.asked, page.asked.table
    against = differences(asked, page.card)
    return {
        "name": table.name,
        "title": table.title,
        "source": table.source,
        "comparable": not against,
        "differences": against,
        "paper": {"dataset": _papers(table), "split": "val", "steps": table.steps, "tested": table.tested},
        "ours": {
            "dataset": page.card,
            "images": seen(asked),
            "steps": asked.config.train.steps,
            "recipe": asked.recipe,
            "settings": asked.settings,
            "changed": changed(asked),
        },
        "rows": [
            {
                "row": line.row.label,
                "paper": float(line.row.published) if line.row.published else None,
                "mean": ours.mean,
                "spread": ours.spread,
                "seeds": {str(seed): value for seed, value in ours.miou.items()},
                "runs": list(ours.runs),
                "runnable": bool(line.trials),
                "note": line.why or line.row.note,
            }
            for line, ours in zip(asked.lines, page.found.rows, strict=True)
        ],
    }

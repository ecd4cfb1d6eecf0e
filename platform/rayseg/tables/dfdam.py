"""DF-DAM's ablation tables: 1 on VOC val, 2 on Cityscapes val; 3 and 5 are views of one run of each."""

from __future__ import annotations

from typing import Any

from rayseg.tables.form import Row, Table, seen_otherwise

SUM: dict[str, Any] = {"head.dafm": False, "head.pam": False}
DAFM: dict[str, Any] = {"head.dafm": True, "head.pam": False}
BOTH: dict[str, Any] = {"head.dafm": True, "head.pam": True}
PARTS = {"sum (baseline)": SUM, "DAFM": DAFM, "DAFM + 2DPAM": BOTH}
VOC = {"resnet50": ("68.2", "73.7", "74.6"), "resnet101": ("72.9", "76.8", "77.9")}


def _table(name: str, title: str, recipe: str, tested: str, rows: tuple[Row, ...]) -> Table:
    source = f"DF-DAM, Table {name}"
    return Table(f"dfdam-{name}", title, source, f"dfdam/{recipe}", None, tested, {"head.name": "dfdam"}, rows)


def _views(name: str, title: str, recipe: str, figures: tuple[str, str, str]) -> Table:
    """Make a table whose rows are one run, seen in three ways."""
    first = Row("DF-DAM", figures[0], BOTH)
    rows = [
        seen_otherwise(f"+ {what}", miou, "row 1") for what, miou in zip(("MS", "MS + flip"), figures[1:], strict=True)
    ]
    return _table(name, title, recipe, "one scale in the first row", (first, *rows))


TABLES = (
    _table(
        "1",
        "the two attentions",
        "voc_aug_r50",
        "one scale",
        tuple(
            Row(f"{backbone.replace('resnet', 'R')}, {label}", miou, {"backbone.name": backbone, **parts})
            for backbone, figures in VOC.items()
            for (label, parts), miou in zip(PARTS.items(), figures, strict=True)
        ),
    ),
    _table(
        "2",
        "the two attentions, on ResNet-18",
        "cityscapes",
        "one scale",
        tuple(
            Row(label, miou, parts)
            for (label, parts), miou in zip(PARTS.items(), ("70.3", "72.8", "73.1"), strict=True)
        ),
    ),
    _views("3", "views at test time, on ResNet-18", "cityscapes", ("73.1", "74.6", "74.9")),
    _views("5", "views at test time, on ResNet-101", "voc_aug_r101", ("77.90", "79.55", "79.83")),
)

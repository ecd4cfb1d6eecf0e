"""DGCWNet's ablation tables: 1 to 3, on three bases. Cityscapes val, ResNet-101."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayseg.tables.form import Row, Table, seen_otherwise

OF_CONTEXT = {f"head.{name}": None for name in ("fuse", "channels", "weighting", "reduce", "downsample", "factor")}
"""The recipe sets them to their defaults, and what nothing reads is refused: None leaves each to the context."""
BASES = {"none": "R101", "psp": "R101-PPM", "aspp": "R101-ASPP"}
MODULES: dict[str, dict[str, Any]] = {
    "": {"head.context": "none"},
    " + DGCW": {"head.context": "dgcw"},
    " + conv": {"head.context": "conv"},
    " + DGCW (softmax)": {"head.context": "dgcw", "head.weighting": "softmax"},
    " + DGCW (tanh)": {"head.context": "dgcw", "head.weighting": "tanh"},
    " + GAP": {"head.context": "gap"},
    " + SE": {"head.context": "se"},
    " + NL-H": {"head.context": "nl"},
    " + NL-D": {"head.context": "nl_reduced"},
}
MODULE_FIGURES = {
    "none": ("75.65", "77.81", "75.90", "77.46", "77.44"),
    "psp": ("77.88", "79.60", "78.19", "79.19", "79.14"),
    "aspp": ("78.61", "80.43", "78.75", "79.95", "79.92"),
}
RIVAL_FIGURES = {
    "none": ("75.65", "77.81", "76.01", "76.22", "77.34", "76.85"),
    "psp": ("77.88", "79.60", "78.25", "78.41", "78.79", "78.03"),
    "aspp": ("78.61", "80.43", "78.78", "78.83", "79.60", "78.97"),
}
WHOLE = {"head.base": "aspp", "head.context": "dgcw"}
OHEM = {"loss.ohem": True, "loss.ohem_threshold": 0.7, "loss.ohem_min_kept": 100000}


def _rows(figures: Mapping[str, tuple[str, ...]], names: list[str]) -> tuple[Row, ...]:
    return tuple(
        Row(f"{BASES[base]}{name}", miou, {"head.base": base, **MODULES[name]})
        for base, row in figures.items()
        for name, miou in zip(names, row, strict=True)
    )


def _table(name: str, title: str, tested: str, rows: tuple[Row, ...]) -> Table:
    settings = {"head.name": "dgcw", **OF_CONTEXT}
    return Table(f"dgcw-{name}", title, f"DGCWNet, Table {name}", "dgcw/cityscapes", None, tested, settings, rows)


_NAMES = list(MODULES)
_ONE = "one scale"
TABLES = (
    _table("1", "the DGCW module and its weighting", _ONE, _rows(MODULE_FIGURES, _NAMES[:5])),
    _table("2", "other modules for global context", _ONE, _rows(RIVAL_FIGURES, _NAMES[:2] + _NAMES[5:])),
    _table(
        "3",
        "training and test strategies, on R101-ASPP + DGCW",
        "one scale, but for the last two rows",
        (
            Row("baseline", "80.43", WHOLE | {"loss.ohem": False}),
            Row("+ OHEM", "80.86", WHOLE | OHEM),
            seen_otherwise("+ OHEM + MS", "81.53", "'+ OHEM'"),
            seen_otherwise("+ OHEM + MS + flip", "81.80", "'+ OHEM'"),
        ),
    ),
)

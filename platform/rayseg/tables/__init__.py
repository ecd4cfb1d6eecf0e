"""The papers' ablation tables, as data: `rayseg table NAME` prints each beside what our runs came to.

One file a paper has its tables and their printed figures. The rows' settings live there alone: the jobs' paper presets
are made of them. Tables that compare with other authors' published figures are not here; counts of parameters and
FLOPs are the calibration's.
"""

from __future__ import annotations

from rayseg.errors import UsageError, nearest
from rayseg.tables import denoised_nl, dfdam, dfn, dgcw, gald
from rayseg.tables.form import Row, Table

__all__ = ["TABLES", "Row", "Table", "find"]

TABLES: dict[str, Table] = {
    table.name: table for paper in (dgcw, dfdam, gald, dfn, denoised_nl) for table in paper.TABLES
}


def find(name: str) -> Table:
    """Find a table by its name.

    Raises:
        UsageError: no such table; the nearest names are offered.
    """
    if name not in TABLES:
        raise UsageError(f"unknown table '{name}'", "rayseg table", nearest(name, TABLES))
    return TABLES[name]

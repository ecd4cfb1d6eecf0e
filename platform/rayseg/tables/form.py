"""What the papers' ablation tables are kept as: rows with the figure printed, and the settings that build each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of a paper's table.

    `published` is the mIoU in percent as printed, empty where none is. `settings` are dotted names over the table's
    own; None where no training makes the row, and `note` says what would. A note may stand beside settings too.
    """

    label: str
    published: str
    settings: Mapping[str, Any] | None
    note: str = ""


class Table(NamedTuple):
    """An ablation table: its rows differ in the module alone.

    `recipe` is the paper's run, on the data set of its figures (the val split). `steps` are the paper's, None where it
    gives none. `tested` says how its figures were measured, where it does. `settings` hold for every row; None takes
    what the recipe has out again, since an option that nothing reads is refused.
    """

    name: str
    title: str
    source: str
    recipe: str
    steps: int | None
    tested: str
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]

    def points(self) -> tuple[dict[str, Any], ...]:
        """Give the settings of the rows that a training makes, for a sweep's `rows`."""
        return tuple(dict(row.settings) for row in self.rows if row.settings is not None)


AT_SEVERAL_SCALES = "other views of {}: rayseg evaluate RUN --tta-table"
"""The note of a row that is another row's run, with other views of each image."""


def seen_otherwise(label: str, published: str, of: str) -> Row:
    """Make a row that no training makes."""
    return Row(label, published, None, AT_SEVERAL_SCALES.format(of))

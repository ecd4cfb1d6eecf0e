"""DFN's ablation tables, 1 to 4, and Figure 8's weights of the border loss. VOC val, augmented train, ResNet-101."""

from __future__ import annotations

from typing import Any

from rayseg.tables.form import Row, Table, seen_otherwise

OF_PARTS = dict.fromkeys(
    (
        "head.channels",
        "head.border_channels",
        *(f"loss.border_{name}" for name in ("weight", "gamma", "alpha", "width")),
    )
)
"""The recipe sets them to their defaults, and what nothing reads is refused: None leaves each to the parts."""


def smooth(**parts: bool) -> dict[str, Any]:
    """Give the settings of the Smooth Network with these parts and no other."""
    switches = ("global_pooling", "cab", "deep_supervision")
    return {"head.border": False} | {f"head.{name}": parts.get(name, False) for name in switches}


RES101: dict[str, Any] = {"head.border": False, "head.rrb": False}
ONE_SCALE = RES101 | {"augment.scales": (1.0,)}
SMOOTH = smooth(global_pooling=True, cab=True, deep_supervision=True)
WHOLE: dict[str, Any] = {"head.border": True}
LAMBDA = (0.05, 0.1, 0.5, 0.75, 1.0)
SECOND = "a second stage, from row 1's run: --recipe dfn/voc_finetune --set start_from=RUN, with rayseg train"


def _table(name: str, title: str, *rows: Row, figure: bool = False) -> Table:
    source = f"DFN, {'Figure' if figure else 'Table'} {name.removeprefix('fig')}"
    tested = "one scale where the row names no other"
    settings = {"head.name": "dfn", **OF_PARTS}
    return Table(f"dfn-{name}", title, source, "dfn/voc_aug", None, tested, settings, rows)


TABLES = (
    _table(
        "1",
        "random scales in training",
        Row("Res-101", "69.26", ONE_SCALE),
        Row("Res-101, random scale", "72.86", RES101),
    ),
    _table(
        "2",
        "parts of the Smooth Network",
        Row("Res-101", "72.86", RES101),
        Row("+ RRB", "76.65", smooth()),
        Row("+ RRB + GP", "78.20", smooth(global_pooling=True)),
        Row("+ RRB + GP + CAB", "79.31", smooth(global_pooling=True, cab=True)),
        Row("+ RRB + DS", "77.08", smooth(deep_supervision=True)),
        Row("+ RRB + GP + DS", "78.51", smooth(global_pooling=True, deep_supervision=True)),
        Row("+ RRB + GP + CAB + DS", "79.54", SMOOTH),
    ),
    _table(
        "3",
        "the Border Network",
        Row("Res-101 + SN", "79.54", SMOOTH),
        Row("Res-101 + SN + BN", "79.67", WHOLE),
        seen_otherwise("Res-101 + SN + MS, flip", "79.90", "row 1"),
        seen_otherwise("Res-101 + SN + BN + MS, flip", "80.01", "row 2"),
    ),
    _table(
        "4",
        "fine-tuning and views",
        Row("DFN", "79.67", WHOLE),
        Row("DFN, fine-tuned on VOC train", "80.46", None, SECOND),
        Row("DFN, fine-tuned, MS, flip", "80.60", None, SECOND),
    ),
    _table(
        "fig8",
        "the weight of the border loss",
        *(
            Row(
                f"lambda = {weight:g}",
                "79.67" if weight == 0.1 else "",
                WHOLE | {"loss.border_weight": weight},
                "Table 3" if weight == 0.1 else "drawn, not printed",
            )
            for weight in LAMBDA
        ),
        figure=True,
    ),
)

SMOOTH_ROWS = TABLES[1].points()
PAPER_ROWS = (*TABLES[0].points()[:1], *SMOOTH_ROWS, *TABLES[4].points())
"""What a sweep over all of Tables 1 to 3 and Figure 8 runs: Res-101 with random scales stands in both 1 and 2."""

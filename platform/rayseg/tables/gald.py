"""GALD's ablation tables: I(a) to (d), II(a) to (c), III. Cityscapes val; ResNet-50 but for two rows of III.

Table I(d)'s LDv2 alone has 78.9, which II(b) has at k = 7, r = 6. The differences that Tables I and II print beside the
mIoU do not all follow from it; they are left out. III lost its marks: each row is read as adding one thing more.
"""

from __future__ import annotations

from typing import Any

from rayseg.tables.form import Row, Table, seen_otherwise

OF_LD = {"head.kernel_size": None, "head.dilation": None}
"""The recipe sets them to their defaults, and what nothing reads is refused: None leaves each to the LD."""
NAMES = {"aspp": "ASPP", "nl": "NL", "psp": "PSP", "cgnl": "CGNL"}
FCN = Row("FCN (baseline)", "73.7", {"head.ga": "none", "head.ld": "none"})


def parts(ga: str, ld: str, **more: str) -> dict[str, Any]:
    """Give the settings of a GA and an LD."""
    return {"head.ga": ga, "head.ld": ld} | {f"head.{name}": value for name, value in more.items()}


def window(ga: str, kernel_size: int, dilation: int) -> dict[str, Any]:
    """Give the settings of LDv2's window on a GA."""
    return parts(ga, "v2") | {"head.kernel_size": kernel_size, "head.dilation": dilation}


def _table(name: str, title: str, *rows: Row) -> Table:
    source = f"GALD, Table {name}"
    key = "gald-" + {"I": "1", "II": "2", "III": "3"}[name.partition("(")[0]] + name.partition("(")[2].rstrip(")")
    tested = "one scale, crops of 832 x 832"
    if name == "III":
        tested = "one scale, but for the last row"
    return Table(key, title, source, "gald/cityscapes", 50000, tested, {"head.name": "gald", **OF_LD}, rows)


def _windows(ga: str, label: str, figures: dict[tuple[int, int], str]) -> tuple[Row, ...]:
    return tuple(Row(f"{label}LDv2, k={k} r={r}", miou, window(ga, k, r)) for (k, r), miou in figures.items())


def _on_each(ld: str, figures: dict[str, str]) -> tuple[Row, ...]:
    return tuple(Row(f"+ {NAMES[ga]} + LD{ld}", miou, parts(ga, ld)) for ga, miou in figures.items())


ALONE = {(3, 3): "76.2", (5, 3): "77.2", (5, 6): "77.5", (7, 6): "78.9"}
ON_ASPP = {(3, 3): "79.9", (3, 6): "79.8", (5, 3): "80.2", (5, 6): "80.8", (7, 6): "80.3"}
ASPP = Row("FCN + ASPP", "77.2", parts("aspp", "none"))
CGNL = Row("FCN + CGNL", "78.2", parts("cgnl", "none"))
BEST = "ASPP + LDv2"

TABLES = (
    _table(
        "I(a)",
        "global aggregation modules",
        FCN,
        ASPP,
        *(
            Row(f"FCN + {NAMES[ga]}", miou, parts(ga, "none"))
            for ga, miou in {"nl": "78.0", "psp": "76.2", "cgnl": "78.2"}.items()
        ),
    ),
    _table(
        "I(b)",
        "LDv1 on each of them",
        FCN,
        Row("+ LDv1", "77.5", parts("none", "v1")),
        *_on_each("v1", {"psp": "78.9", "aspp": "79.5", "nl": "79.2", "cgnl": "79.6"}),
    ),
    _table(
        "I(c)",
        "arrangements of CGNL and LDv1",
        FCN,
        Row("+ parallel", "77.5", parts("cgnl", "v1", arrangement="parallel")),
        Row("+ LDGA", "78.1", parts("cgnl", "v1", arrangement="ldga")),
        Row("+ GALD", "79.6", parts("cgnl", "v1")),
    ),
    _table(
        "I(d)",
        "LDv2 on each of them",
        FCN,
        Row("+ LDv2", "78.9", window("none", 7, 6), "k=7 r=6, by Table II(b)"),
        *_on_each("v2", {"psp": "80.2", "aspp": "80.8", "nl": "79.9", "cgnl": "80.1"}),
    ),
    _table(
        "II(a)",
        "how LDv1 shrinks its mask",
        FCN,
        CGNL,
        Row("+ CGNL + LD, depthwise", "79.6", parts("cgnl", "v1")),
        Row("+ CGNL + LD, bilinear", "77.6", parts("cgnl", "v1", ld_downsample="bilinear")),
        Row("+ CGNL + LD, average", "76.5", parts("cgnl", "v1", ld_downsample="average")),
    ),
    _table(
        "II(b)",
        "LDv2's window",
        FCN,
        *_windows("none", "+ ", ALONE),
        ASPP,
        *_windows("aspp", "+ ASPP + ", ON_ASPP),
    ),
    _table(
        "II(c)",
        "what LDv2's keys and queries read",
        Row("key and query", "80.8", parts("aspp", "v2")),
        Row("key", "80.1", parts("aspp", "v2", key_query="key"), "the marks are lost: queries from X_g"),
        Row("query", "79.8", parts("aspp", "v2", key_query="query"), "the marks are lost: keys from X_g"),
    ),
    _table(
        "III",
        "improvement strategies",
        Row(BEST, "80.8", parts("aspp", "v2")),
        Row("+ ResNet-101", "81.5", parts("aspp", "v2") | {"backbone.name": "resnet101s"}),
        Row(
            "+ multi-grid",
            "81.8",
            parts("aspp", "v2") | {"backbone.name": "resnet101s", "backbone.multi_grid": (1, 2, 4)},
        ),
        seen_otherwise("+ several scales, mirrored", "83.0", "the row above"),
    ),
)


def _found(*names: str) -> tuple[dict[str, Any], ...]:
    """Collect the rows of tables, each once."""
    rows: list[dict[str, Any]] = []
    for table in TABLES:
        if table.name.removeprefix("gald-") in names:
            rows += [point for point in table.points() if point not in rows]
    return tuple(rows)


WINDOW_ROWS = _found("2b")
PART_ROWS = _found("1a", "1b", "1c", "1d", "2a", "2c")
"""What a sweep over all of Tables I, II(a) and II(c) runs."""

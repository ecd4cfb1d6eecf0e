"""Layouts of the papers' heads on the deepest stage, GALD and DGCWNet, as their Cityscapes recipes build them."""

from __future__ import annotations

from diagram import Drawing
from measured import of_recipe
from parts import compact, context_fuse, half_size


def gald_v1() -> Drawing:
    """CGNL at half size, then the mask."""
    d = Drawing("gald_v1", of_recipe("gald/cityscapes_v1"), column=144)
    context_fuse(d, "GA, LDv1")
    of = "layers.context"
    d.words("in", (0, 2), "in", shape=f"{of}<")
    d.box("ga", (1.1, 2), "GA:\nHalfSize", of=f"{of}.ga", kind="context")
    d.box("shrink", (2.4, 3), "{}", of=f"{of}.ld.down", kind="attention", size=(1.25, 0))
    d.box("mask", (3.6, 3), "resize\nsigmoid: M", kind="attention", shape=of, size=(1.1, 0))
    d.box("weigh", (4.8, 2), "(2 + M) X_g", kind="attention", shape=of, size=(1.1, 0))
    d.words("out", (5.8, 2), "out")
    d.flow("in", "ga", "weigh", "out")
    d.join("ga", "shrink", "vh", label=False)
    d.flow("shrink", "mask")
    d.join("mask", "weigh", "hv")
    d.frame("Arranged: GA, then MaskedDistribution (LDv1)", ["in", "ga", "shrink", "out"], of=of)
    half_size(d, f"{of}.ga", row=5)
    compact(d, f"{of}.ga.module", row=6.7)
    return d


def gald_v2() -> Drawing:
    """ASPP, then attention in a local window on context and features."""
    d = Drawing("gald_v2", of_recipe("gald/cityscapes"), column=144)
    ld = "layers.context.ld"
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("ga", (1.2, 0), "GA: ASPP", of="layers.context.ga", kind="context")
    d.box("ld", (2.6, 0), "LDv2", of=ld, kind="attention")
    d.box("local", (2.6, 1.2), of="layers.local")
    d.add("cat", (3.6, 0), "‖", shape="layers.fuse<")
    d.box("fuse", (4.55, 0), of="layers.fuse")
    d.box("classify", (5.6, 0), of="classify", kind="classifier")
    d.words("main", (6.45, 0), "main")
    d.flow("x", "ga", "ld", "cat", "fuse", "classify", "main")
    d.join("x", "ld", "vhv", at=0.6)
    d.join("x", "local", "vh")
    d.join("local", "cat", "hv")
    _local(d, ld, row=2.8)
    return d


def _local(d: Drawing, of: str, *, row: float) -> None:
    d.words("context in", (0, row + 0.5), "X_g", shape=f"{of}<1")
    d.words("features in", (0, row + 1.5), "X", shape=f"{of}<")
    d.add("both", (0.9, row + 1), "‖", shape=f"{of}.value<")
    for i, name in enumerate(("query", "key", "value")):
        d.box(name, (2.1, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    options = d.setting.head.model_dump()
    taps = "softmax(qᵀk) v\nover {kernel_size}×{kernel_size} taps,\n{dilation} px apart".format(**options)
    d.box("attend", (3.7, row + 1), taps, kind="attention", shape=of, size=(1.6, 2))
    d.words("out", (4.9, row + 1), "out")
    d.join("context in", "both", "hv")
    d.join("features in", "both", "hv")
    d.join("both", "key")
    for name in ("query", "value"):
        d.join("both", name, at=0.8)
    for name in ("query", "key", "value"):
        d.join(name, "attend")
    d.flow("attend", "out")
    d.frame("LocalDistribution (LDv2)", ["context in", "query", "value", "out"], of=of)


def dgcw() -> Drawing:
    """Every pixel meets every pixel at a quarter of the size, channel by channel."""
    d = Drawing("dgcw", of_recipe("dgcw/cityscapes"))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("base", (1.1, 0), "ASPP\n{C} a branch", of="base", kind="context", size=(1.25, 0))
    d.box("reduce", (2.3, 0), "{}\nthen resize", of="context.0", shape="context.1", size=(1.1, 0))
    d.box("module", (3.4, 0), "Dgcw", of="context.2", kind="attention")
    d.box("wide", (4.4, 0), "resize")
    d.add("cat", (5.05, 0), "‖", shape="fuse<")
    d.box("fuse", (5.9, 0), of="fuse")
    d.box("classify", (6.95, 0), "dropout\n{}", of="classify", kind="classifier")
    d.words("main", (7.75, 0), "main")
    d.flow("x", "base", "reduce", "module", "wide", "cat", "fuse", "classify", "main")
    d.join("base", "cat", "vhv", at=0.8, label=False)
    _pairs(d, "context.2", row=2)
    return d


def _pairs(d: Drawing, of: str, *, row: float) -> None:
    d.words("in", (0, row + 1), "in", shape=of)
    for i, name in enumerate(("query", "key", "value")):  # their weights are used without a call
        d.box(name, (1.05, row + i), f"{name}\n{{}}", of=f"{of}.{name}", shape=of)
    pairs = "M = (Q_i - K_j)²\nW = M / Σ_c M\nfor all {N}² pairs"
    d.box("distance", (2.65, row + 0.5), pairs, kind="attention", shape=of, size=(1.75, 1))
    relation = "W_ij · V_i\n{}, ReLU\nΣ over j"
    d.box("relation", (4.4, row + 1), relation, of=f"{of}.first", shape=of, kind="attention", size=(1.45, 0.6))
    d.box("last", (5.6, row + 1), of=f"{of}.last", shape=of)
    d.add("plus", (6.4, row + 1), shape=of)
    d.words("out", (7.1, row + 1), "out")
    d.join("in", "key")
    d.join("in", "query", at=0.75)
    d.join("in", "value", at=0.75)
    d.join("query", "distance")
    d.join("key", "distance")
    d.join("distance", "relation", label=False)
    d.join("value", "relation", "hv")
    d.flow("relation", "last", "plus", "out")
    d.join("in", "plus", "vhv", at=row + 2.75)
    d.frame("Dgcw (computed for a few pixels i at a time)", ["in", "query", "value", "out"], of=of)


LAYOUTS = (gald_v1, gald_v2, dgcw)

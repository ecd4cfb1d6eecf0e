"""Layouts of the heads in which pixels or channels attend to each other."""

from __future__ import annotations

from diagram import Drawing
from measured import defaults
from parts import attention, channels, compact, context_fuse, half_size


def nonlocal_net() -> Drawing:
    """Attention of all pixels to all, in CCNet's layout."""
    d = Drawing("nonlocal_net", defaults("nonlocal_net", "resnet101s"))
    context_fuse(d, "NonLocal")
    attention(d, "layers.context", "softmax(qᵀk) v\nall {N} pixels\n× γ", row=2, title="NonLocal")
    return d


def cgnl() -> Drawing:
    """Compact generalised non-local at half size, in GALD v1's layout."""
    d = Drawing("cgnl", defaults("cgnl", "resnet101s"))
    context_fuse(d, "HalfSize")
    half_size(d, "layers.context", row=2)
    compact(d, "layers.context.module", row=4.2)
    return d


def ccnet() -> Drawing:
    """Attention along rows and columns, twice."""
    d = Drawing("ccnet", defaults("ccnet", "resnet101s"))
    context_fuse(d, "CrissCross")
    rule = "softmax(qᵀk) v\nover p's row\nand column\n× γ"
    attention(d, "layers.context", rule, row=2, title="CrissCross: this twice, with the same weights")
    return d


def danet() -> Drawing:
    """Two branches: pixels attend to pixels, channels to channels."""
    d = Drawing("danet", defaults("danet", "resnet101s"))
    d.box("x", (0, 1), "stage 4", kind="backbone", shape="x4")
    for row, branch, text in ((0, "position", "NonLocal"), (2, "channel", "Channel-\nAttention")):
        d.box(f"{branch} reduce", (1.2, row), of=f"{branch}.reduce")
        d.box(f"{branch} attend", (2.2, row), text, of=f"{branch}.attention", kind="attention")
        d.box(f"{branch} refine", (3.2, row), of=f"{branch}.refine")
        d.box(f"classify {branch}", (4.3, row), "dropout\n{}", of=f"classify_{branch}", kind="classifier")
        d.words(branch, (5.3, row), branch)
        d.join("x", f"{branch} reduce", at=0.8)
        d.flow(f"{branch} reduce", f"{branch} attend", f"{branch} refine")
        d.join(f"{branch} refine", f"classify {branch}", training=True)
        d.join(f"classify {branch}", branch, training=True)
    d.add("plus", (3.75, 1), shape="classify<")
    d.join("position refine", "plus", "vh", label=False)
    d.join("channel refine", "plus", "vh", label=False)
    d.box("classify", (4.8, 1), "dropout\n{}", of="classify", kind="classifier")
    d.words("main", (5.7, 1), "main")
    d.flow("plus", "classify", "main")
    attention(d, "position.attention", "softmax(qᵀk) v\nall {N} pixels\n× γ", row=4, title="NonLocal", key="pam")
    channels(d, "channel.attention", row=8.1, title="ChannelAttention")
    return d


def ocnet() -> Drawing:
    """Object context: queries are keys."""
    d = Drawing("ocnet", defaults("ocnet", "resnet101s"))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("reduce", (1.1, 0), of="layers.0")
    d.box("block", (2.3, 0), "ObjectContext", of="layers.1", kind="attention", size=(1.3, 0))
    d.box("classify", (3.5, 0), "dropout\n{}", of="layers.3", kind="classifier")
    d.words("main", (4.4, 0), "main")
    d.flow("x", "reduce", "block", "classify", "main")
    d.words("in", (0, 2), "in", shape="layers.1<")
    d.box("key", (1.1, 2), "key = query\n{}", of="layers.1.key", size=(1.15, 0))
    d.box("value", (1.1, 3), "value\n{}", of="layers.1.value")
    d.box(
        "attend",
        (2.6, 2.5),
        "softmax(kᵀk / √d) v\nall {N} pixels",
        kind="attention",
        shape="layers.1.expand<",
        size=(1.85, 1),
    )
    d.box("expand", (4, 2.5), of="layers.1.expand")
    d.add("cat", (4.8, 2.5), "‖", shape="layers.1.fuse<")
    d.box("fuse", (5.7, 2.5), of="layers.1.fuse")
    d.words("out", (6.5, 2.5), "out")
    d.join("in", "key")
    d.join("in", "value", at=0.75)
    d.join("key", "attend")
    d.join("value", "attend")
    d.flow("attend", "expand", "cat", "fuse", "out")
    d.join("in", "cat", "vhv", at=3.75)
    d.frame("ObjectContext", ["in", "key", "value", "out"], of="layers.1")
    return d


def dranet() -> Drawing:
    """DANet's branches made compact, and a decoder."""
    d = Drawing("dranet", defaults("dranet", "resnet101s"), column=146)
    d.box("x", (0, 0.6), "stage 4", kind="backbone", shape="x4")
    d.box("x1", (0, 2.2), "stage 1", kind="backbone", shape="x1")
    for row, branch, text in ((0, "position", "Compact-\nPosition"), (1.2, "channel", "Compact-\nChannel")):
        d.box(f"{branch} reduce", (1.2, row), of=f"{branch}.reduce")
        d.box(f"{branch} attend", (2.2, row), text, of=f"{branch}.attention", kind="attention")
        d.box(f"{branch} refine", (3.2, row), of=f"{branch}.refine")
        d.join("x", f"{branch} reduce", at=0.8)
        d.flow(f"{branch} reduce", f"{branch} attend", f"{branch} refine")
    d.add("cat", (3.75, 0.6), "‖", shape="fuse<")
    d.join("position refine", "cat", "vh", label=False)
    d.join("channel refine", "cat", "vh", label=False)
    d.box("fuse", (4.65, 0.6), of="fuse")
    d.box("decoder", (4.65, 2.2), "GatedDetail", of="decoder", kind="context", size=(1.2, 0))
    d.box("classify", (5.85, 2.2), "dropout\n{}", of="classify", kind="classifier")
    d.words("main", (6.8, 2.2), "main")
    d.flow("cat", "fuse")
    d.join("fuse", "decoder", "v")
    d.flow("x1", "decoder", "classify", "main")
    _compact_position(d, "position.attention", row=4)
    _compact_channel(d, "channel.attention", row=8.6)
    _gated_detail(d, row=11)
    return d


def _compact_position(d: Drawing, of: str, *, row: float) -> None:
    d.words("cpam in", (0, row), "in", shape=f"{of}<")
    d.box("query", (1.2, row), "query\n{}", of=f"{of}.query")
    d.box(
        "pool",
        (1.2, row + 1.6),
        "means of\n1×1, 2×2,\n3×3, 6×6\n1×1, {C} each",
        of=f"{of}.levels",
        shape=f"{of}.levels.0",
        kind="context",
        size=(1.25, 0),
    )
    d.box("key", (2.6, row + 1), "key\n{}", of=f"{of}.key", size=(1.15, 0))
    d.box("value", (2.6, row + 2.2), "value\n{}", of=f"{of}.value", size=(1.15, 0))
    d.box("attend", (4.15, row + 1), "softmax(qᵀk) v\nover the cells\n× γ", kind="attention", shape=of, size=(1.6, 2.4))
    d.add("cpam plus", (5.4, row + 1), shape=of)
    d.words("cpam out", (6.1, row + 1), "out")
    d.flow("cpam in", "query", "attend")
    d.join("cpam in", "pool", "vh", label=False)
    for name in ("key", "value"):
        d.join("pool", name, label=False)
        d.join(name, "attend")
    d.flow("attend", "cpam plus", "cpam out")
    d.join("cpam in", "cpam plus", "vhv", at=row + 3.1)
    d.frame("CompactPosition (CPAM)", ["cpam in", "query", "value", "cpam out"], of=of)


def _compact_channel(d: Drawing, of: str, *, row: float) -> None:
    d.words("ccam in", (0, row), "in", shape=f"{of}<")
    d.box("centres", (1.2, row), "centres\n{}", of=f"{of}.centres")
    d.box(
        "ccam attend",
        (2.9, row),
        "softmax(-x · centre) centre\nover centres, × γ",
        kind="attention",
        of=f"{of}.attention",
        size=(2.45, 0),
    )
    d.add("ccam plus", (4.4, row), shape=of)
    d.words("ccam out", (5.1, row), "out")
    d.flow("ccam in", "centres", "ccam attend", "ccam plus", "ccam out")
    d.join("ccam in", "ccam attend", "vhv", at=row + 0.65)
    d.join("ccam in", "ccam plus", "vhv", at=row + 0.85)
    d.frame("CompactChannel (CCAM)", ["ccam in", "centres", "ccam out"], of=of)


def _gated_detail(d: Drawing, *, row: float) -> None:
    d.words("stage 1 in", (0, row), "stage 1", shape="decoder<")
    d.words("context in", (0, row + 1.3), "context", shape="decoder<1")
    d.box("detail", (1.2, row), of="decoder.reduce")
    d.box("resize", (1.2, row + 1.3), "resize", shape="decoder.refine")
    d.box("gate", (2.7, row + 0.65), "‖, {}\nsigmoid, × γ", of="decoder.gate", kind="attention", size=(1.3, 0))
    d.add("gated", (3.75, row), "×", shape="decoder.reduce")
    d.add("both", (4.3, row + 1.3), "‖", shape="decoder.fuse<")
    d.box("mix", (5.2, row + 1.3), of="decoder.fuse")
    d.box("smooth", (6.2, row + 1.3), of="decoder.refine")
    d.words("detail out", (7, row + 1.3), "out")
    d.flow("stage 1 in", "detail", "gated")
    d.flow("context in", "resize", "both", "mix", "smooth", "detail out")
    d.join("detail", "gate", "vh", label=False)
    d.join("resize", "gate", "vh", label=False)
    d.join("gate", "gated", "hv", label=False)
    d.join("gated", "both", "hv", label=False)
    d.frame("GatedDetail", ["stage 1 in", "detail", "context in", "resize", "detail out"], of="decoder")


LAYOUTS = (nonlocal_net, cgnl, ccnet, danet, ocnet, dranet)

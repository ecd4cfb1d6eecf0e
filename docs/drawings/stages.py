"""Layouts of the papers' heads on several stages, DF-DAM, DFN, Denoised NL, as their Cityscapes recipes build them."""

from __future__ import annotations

from diagram import Drawing
from measured import of_recipe


def dfdam() -> Drawing:
    """Context of two deep stages, and a shallow one let through pixel by pixel."""
    d = Drawing("dfdam", of_recipe("dfdam/cityscapes"), column=138)
    d.box("x1", (0, 0), "stage 1: S", kind="backbone", shape="x1")
    d.box("space", (1.15, 0), of="reduce_space")
    d.add("gated", (5.4, 0), "×", shape="pam")
    d.add("plus", (6.1, 0), shape="classify<")
    d.box("classify", (7, 0), of="classify", kind="classifier")
    d.words("main", (7.85, 0), "main")
    d.box("confidence", (4.5, 1.35), "‖, {}\nsigmoid: β", of="pam.confidence", kind="attention", size=(1.1, 0))
    d.box("classify space", (7, -1.1), of="classify_space", kind="classifier")
    d.words("spatial", (7.95, -1.1), "spatial")
    _dual_attention(d, row=3.2)
    d.box("wide", (4.5, 3.2), "resize", shape="pam<1")
    d.box("classify context", (4.5, 4.4), of="classify_context", kind="classifier")
    d.words("context out", (5.5, 4.4), "context")
    d.flow("x1", "space", "gated", "plus", "classify", "main")
    d.join("space", "confidence", "vh", label=False)
    d.join("wide", "confidence", "v")
    d.join("confidence", "gated", "hv")
    d.join("wide", "plus", "hv", label=False)
    d.join("gated", "classify space", "vh", training=True, label=False)
    d.join("classify space", "spatial", training=True)
    d.flow("ctx", "wide")
    d.join("ctx", "classify context", "vh", training=True, label=False)
    d.join("classify context", "context out", training=True)
    return d


def _dual_attention(d: Drawing, *, row: float) -> None:
    d.box("x3", (0, row), "stage 3: L", kind="backbone", shape="x3")
    d.box("x4", (0, row + 1.95), "stage 4: H", kind="backbone", shape="x4")
    d.box("low", (1.5, row), of="reduce_low")
    d.box("weigh low", (1.5, row + 1.25), "mean\n{}\nsigmoid", of="dafm.low", kind="attention")
    d.box("weigh high", (1.5, row + 2.75), "mean\n{}\nsigmoid", of="dafm.high", kind="attention")
    d.box("resized", (0.65, row + 4), "resize", shape="reduce_high<", size=(0.8, 0))
    d.box("high", (1.6, row + 4), of="reduce_high")
    d.add("times low", (2.4, row), "×", shape="dafm")
    d.add("times high", (2.4, row + 4), "×", shape="dafm")
    d.add("sum", (3, row), shape="dafm")
    d.words("ctx", (3.65, row), "ctx", shape="dafm")
    d.flow("x3", "low", "times low", "sum", "ctx")
    d.join("x4", "weigh low", at=0.8)
    d.join("x4", "weigh high", at=0.8)
    d.join("weigh low", "times low", "hv")
    d.join("weigh high", "times high", "hv")
    d.join("x4", "resized", "vh", label=False)
    d.flow("resized", "high", "times high")
    d.join("times high", "sum", "hv")


def dfn() -> Drawing:
    """Deep levels guide shallow ones; borders are learnt beside them."""
    d = Drawing("dfn", of_recipe("dfn/cityscapes"), column=146)
    d.box("pool", (1.2, 0), "mean\n{}", of="smooth.pool", kind="context")
    for level in (4, 3, 2, 1):
        row, i = 1.3 * (5 - level), level - 1
        output = "main" if level == 1 else f"smooth_{level}"
        d.box(f"x{level}", (0, row), f"stage {level}", kind="backbone", shape=f"x{level}")
        d.box(f"before {level}", (1.2, row), "RRB\n{last}", of=f"smooth.before.{i}")
        d.box(f"cab {level}", (2.3, row), "CAB", of=f"smooth.fuse.{i}", kind="attention")
        d.box(f"after {level}", (3.4, row), "RRB\n{last}", of=f"smooth.after.{i}")
        d.box(
            f"classify {level}", (4.6, row), "RRB, {last}", of=f"classify.{output}", kind="classifier", size=(1.25, 0)
        )
        d.words(output, (5.75, row), output)
        d.flow(f"x{level}", f"before {level}", f"cab {level}", f"after {level}")
        d.join(f"after {level}", f"classify {level}", training=level > 1)
        d.join(f"classify {level}", output, training=level > 1)
        if level < 4:
            d.join(f"after {level + 1}", f"cab {level}", "vhv", at=row - 0.65, label=False)
    d.join("x4", "pool", "vh", label=False)
    d.join("pool", "cab 4", "hv")
    d.frame("Smooth Network: from deep to shallow", ["x1", "pool", "smooth_4"], of="smooth")
    _border(d, row=9.1)
    _refinement(d, "smooth.before.3", row=13)
    _channel_attention(d, "smooth.fuse.2", row=15.2)
    return d


def _border(d: Drawing, *, row: float) -> None:
    d.box("stage 1", (0, row), "stage 1", kind="backbone", shape="x1")
    d.box("border 1", (1.15, row), "RRB\n{last}", of="border.before.0", kind="context")
    d.join("stage 1", "border 1", training=True)
    for level in (2, 3, 4):
        x, name = 1.95 * level - 1.75, f"border {level}"
        d.box(f"stage {level}", (x, row + 2), f"stage {level}", kind="backbone", shape=f"x{level}")
        d.box(
            f"{name} in",
            (x, row + 1),
            "RRB, resize\n{last}",
            of=f"border.before.{level - 1}",
            kind="context",
            size=(1.1, 0),
        )
        d.add(f"{name} sum", (x, row), shape=f"border.after.{level - 2}")
        d.box(name, (x + 0.95, row), "RRB\n{last}", of=f"border.after.{level - 2}", kind="context")
        d.join(f"stage {level}", f"{name} in", "v", training=True)
        d.join(f"{name} in", f"{name} sum", "v", training=True, label=False)
        d.join(f"border {level - 1}", f"{name} sum", training=True)
        d.join(f"{name} sum", name, training=True, label=False)
    for level in (1, 2, 3, 4):
        x = d.boxes[f"border {level}"].x / d.column
        d.box(
            f"detect {level}",
            (x, row - 1),
            "RRB, {last}",
            of=f"detect.border_{level}",
            kind="classifier",
            size=(1.05, 0),
        )
        d.words(f"border_{level}", (x, row - 1.95), f"border_{level}")
        d.join(f"border {level}", f"detect {level}", "v", training=True, label=False)
        d.join(f"detect {level}", f"border_{level}", "v", training=True)
    d.frame("Border Network: from shallow to deep", ["stage 1", "stage 2", "border_1", "border_4"], of="border")


def _refinement(d: Drawing, of: str, *, row: float) -> None:
    d.words("rrb in", (0, row), "in", shape=f"{of}<")
    d.box("unify", (1.1, row), of=f"{of}.unify")
    d.box("refine", (2.35, row), of=f"{of}.refine")
    d.add("rrb sum", (3.25, row), shape=of)
    d.box("relu", (4.1, row), "ReLU", shape=of, size=(0.8, 0))
    d.words("rrb out", (4.95, row), "out")
    d.flow("rrb in", "unify", "refine", "rrb sum", "relu", "rrb out")
    d.join("unify", "rrb sum", "vhv", at=row + 0.75, label=False)
    d.frame("RefinementResidualBlock (RRB), of stage 4", ["rrb in", "unify", "refine", "rrb out"], of=of)


def _channel_attention(d: Drawing, of: str, *, row: float) -> None:
    d.words("low", (0, row), "lower", shape=f"{of}<")
    d.words("high", (0, row + 2.1), "higher", shape=f"{of}<1")
    d.box("weigh", (1.6, row + 1.1), "means, ‖\n{}\nsigmoid", of=f"{of}.weigh", kind="attention")
    d.add("times", (2.6, row), "×", shape=of)
    d.add("cab sum", (3.4, row), shape=of)
    d.words("cab out", (4.1, row), "out")
    d.join("low", "times")
    d.join("low", "weigh", "vh", label=False)
    d.join("high", "weigh", "hv", label=False)
    d.join("weigh", "times", "hv")
    d.flow("times", "cab sum", "cab out")
    d.join("high", "cab sum", "hv")
    d.frame("ChannelAttention (CAB), of stage 3", ["low", "high", "weigh", "cab out"], of=of)


def denoised_nl() -> Drawing:
    """Non-local attention whose map is rectified by predictions and smoothed in a window."""
    d = Drawing("denoised_nl", of_recipe("denoised_nl/cityscapes"))
    for row, stage, name in ((0, 2, "aux1"), (1.5, 3, "aux2")):
        d.box(f"x{stage}", (0, row), f"stage {stage}", kind="backbone", shape=f"x{stage}")
        d.box(name, (1.1, row), of=name, kind="classifier")
    d.words("aux1 out", (2.15, 0), "aux1")
    d.words("aux2 out", (2.15, 0.75), "aux2")
    d.box("classes", (2.2, 1.5), "resize,\nsoftmax: P", shape="attend<1", kind="attention", size=(1.1, 0))
    d.box("x4", (0, 2.8), "stage 4", kind="backbone", shape="x4")
    d.box("reduce", (1.05, 2.8), of="reduce.0")
    d.box("halve", (2.1, 2.8), "Reduction", of="reduce.1")
    d.box("attend", (3.3, 2.8), "Denoised-\nNonLocal", of="attend", kind="attention")
    d.box("wide", (4.3, 2.8), "resize", shape="refine<")
    d.box("refine", (5.3, 2.8), of="refine")
    d.add("cat", (6, 2.8), "‖", shape="classify<")
    d.box("classify", (6.85, 2.8), of="classify", kind="classifier")
    d.words("main", (7.7, 2.8), "main")
    d.join("x2", "aux1", training=True)
    d.join("aux1", "aux1 out", training=True)
    d.flow("x3", "aux2", "classes")
    d.join("aux2", "aux2 out", "vh", training=True, label=False)
    d.join("classes", "attend", "hv")
    d.flow("x4", "reduce", "halve", "attend", "wide", "refine", "cat", "classify", "main")
    d.join("x4", "cat", "vhv", at=3.6)
    _reduction(d, "reduce.1", row=5)
    _denoised(d, "attend", row=8.2)
    return d


def _reduction(d: Drawing, of: str, *, row: float) -> None:
    d.words("reduction in", (0, row + 0.5), "in", shape=f"{of}<")
    d.box("residual", (1.2, row), of=f"{of}.residual", size=(1.1, 0))
    d.box("shortcut", (1.2, row + 1), "{}\nReLU", of=f"{of}.shortcut", size=(1.1, 0))
    d.add("sum", (2.2, row + 0.5), shape=of)
    d.box("relu", (3, row + 0.5), "ReLU", shape=of, size=(0.8, 0))
    d.words("F", (3.8, row + 0.5), "F")
    for name in ("residual", "shortcut"):
        d.join("reduction in", name, at=0.8)
        d.join(name, "sum", "hv")
    d.flow("sum", "relu", "F")
    d.frame("Reduction", ["reduction in", "residual", "shortcut", "F"], of=of)


def _denoised(d: Drawing, of: str, *, row: float) -> None:
    d.words("in", (0, row + 1), "F", shape=f"{of}<")
    for i, name in enumerate(("query", "key", "value")):
        d.box(name, (1.05, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    d.box("weights", (2.45, row + 0.5), "A = softmax\n(qᵀk)\nof {N}² pairs", kind="attention", shape=of, size=(1.4, 1))
    d.words("P", (3.8, row - 0.55), "P", shape=f"{of}<1")
    window = d.setting.head.model_dump()["kernel_size"]
    d.box("rectify", (3.8, row + 0.5), "GR:\nA σ(PᵀP)", kind="attention", size=(1.05, 0))
    smooth = f"LR: {window}×{window} keys\nweighted by\nS = σ(q · k)"
    d.box("retain", (5.05, row + 0.5), smooth, kind="attention", size=(1.5, 0))
    d.box("apply", (6.25, row + 1), "A″ v, × γ", kind="attention", shape=of, size=(1.05, 0))
    d.add("plus", (7.1, row + 1), shape=of)
    d.words("out", (7.75, row + 1), "out")
    d.join("in", "key")
    d.join("in", "query", at=0.75)
    d.join("in", "value", at=0.75)
    d.join("query", "weights")
    d.join("key", "weights")
    d.join("weights", "rectify", label=False)
    d.join("rectify", "retain")
    d.join("P", "rectify", "v")
    d.join("retain", "apply", "hv")
    d.join("value", "apply", "hv")
    d.flow("apply", "plus", "out")
    d.join("in", "plus", "vhv", at=row + 2.75)
    d.frame("DenoisedNonLocal (computed without the maps of pairs)", ["in", "P", "value", "out"], of=of)


LAYOUTS = (dfdam, dfn, denoised_nl)

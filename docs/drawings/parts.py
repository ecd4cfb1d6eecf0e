"""Parts that layouts of several heads share."""

from __future__ import annotations

from diagram import Drawing


def context_fuse(drawing: Drawing, block: str, *, kind: str = "attention", of: str = "layers.context") -> None:
    """Lay out `_blocks.ContextFuse` with its block folded, and the classifier."""
    drawing.box("x", (0, 0), "stage 4", of="", kind="backbone", shape="x4")
    drawing.box("reduce", (1, 0), of="layers.reduce")
    drawing.box("block", (2, 0), block, of=of, kind=kind)
    drawing.box("refine", (3, 0), of="layers.refine")
    drawing.add("cat", (3.75, 0), "‖", shape="layers.fuse<")
    drawing.box("fuse", (4.6, 0), of="layers.fuse")
    drawing.box("classify", (5.6, 0), of="classify", kind="classifier")
    drawing.box("main", (6.4, 0), "main", kind="words", shape="=main")
    drawing.flow("x", "reduce", "block", "refine", "cat", "fuse", "classify", "main")
    drawing.join("x", "cat", "vhv", row=0.75)


def attention(drawing: Drawing, of: str, rule: str, *, row: float, title: str, key: str = "") -> None:
    """Lay out queries, keys and values, the attention, and the weighted sum with the input, over three rows."""
    p = key or of
    drawing.box(f"{p} in", (0, row + 1), "in", kind="words", shape=f"{of}<")
    for i, name in enumerate(("query", "key", "value")):
        drawing.box(f"{p} {name}", (1.1, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    drawing.box(f"{p} attend", (2.6, row + 1), rule, kind="attention", shape=of, rows=2, wide=1.7)
    drawing.add(f"{p} plus", (3.8, row + 1), shape=of)
    drawing.box(f"{p} out", (4.5, row + 1), "out", kind="words")
    drawing.flow(f"{p} in", f"{p} key", f"{p} attend", f"{p} plus", f"{p} out")
    for name in ("query", "value"):
        drawing.join(f"{p} in", f"{p} {name}", bend=0.75)
        drawing.join(f"{p} {name}", f"{p} attend")
    drawing.join(f"{p} in", f"{p} plus", "vhv", row=row + 2.75)
    drawing.group(title, [f"{p} query", f"{p} in", f"{p} value", f"{p} out"], of=of)


def compact(drawing: Drawing, of: str, *, row: float, columns: float = 0.0) -> None:
    """Lay out CGNL: one number a group from phi and g, which scales theta."""
    c = columns
    drawing.box("cgnl in", (c, row + 1), "in", kind="words", shape=f"{of}<")
    for i, name in enumerate(("theta", "phi", "g")):
        drawing.box(name, (c + 1.1, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    drawing.box(
        "sum", (c + 2.4, row + 1.5), "a = Σ phi · g\none number\na group", kind="attention", wide=1.25, rows=0.6
    )
    drawing.add("times", (c + 3.3, row), "×", shape=f"{of}.expand<")
    drawing.box("expand", (c + 4.25, row), "{}\ngroup norm", of=f"{of}.expand", wide=1.2)
    drawing.add("cgnl plus", (c + 5.25, row), shape=of)
    drawing.box("cgnl out", (c + 5.9, row), "out", kind="words")
    drawing.flow("cgnl in", "phi")
    for name in ("theta", "g"):
        drawing.join("cgnl in", name, bend=0.75)
    drawing.join("phi", "sum", bend=0.85)
    drawing.join("g", "sum", bend=0.85)
    drawing.join("sum", "times", "hv")
    drawing.flow("theta", "times", "expand", "cgnl plus", "cgnl out")
    drawing.join("cgnl in", "cgnl plus", "vhv", row=row + 2.7)
    drawing.group("Cgnl", ["cgnl in", "theta", "g", "cgnl out"], of=of)


def half_size(d: Drawing, of: str, *, row: float) -> None:
    """Lay out `cgnl.HalfSize` around CGNL in one row."""
    d.box("half in", (0, row), "in", kind="words", shape=f"{of}<")
    d.box("down", (1.1, row), of=f"{of}.down", wide=1.25)
    d.box("module", (2.4, row), "Cgnl", of=f"{of}.module", kind="attention")
    d.box("up", (3.5, row), "resize", shape=of)
    d.box("half out", (4.4, row), "out", kind="words")
    d.flow("half in", "down", "module", "up", "half out")
    d.group("HalfSize", ["half in", "down", "half out"], of=of)


def channels(drawing: Drawing, of: str, *, row: float, title: str) -> None:
    """Lay out channel attention among the channels themselves."""
    drawing.box("cam in", (0, row), "in", kind="words", shape=f"{of}<")
    drawing.box(
        "cam attend", (1.7, row), "softmax(-x · x′) x\nover channels, × γ", kind="attention", shape=of, wide=1.8
    )
    drawing.add("cam plus", (2.9, row), shape=of)
    drawing.box("cam out", (3.6, row), "out", kind="words")
    drawing.flow("cam in", "cam attend", "cam plus", "cam out")
    drawing.join("cam in", "cam plus", "vhv", row=row + 0.7)
    drawing.group(title, ["cam in", "cam attend", "cam out"], of=of)

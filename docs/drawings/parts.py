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
    drawing.words("main", (6.4, 0), "main", shape="=main")
    drawing.flow("x", "reduce", "block", "refine", "cat", "fuse", "classify", "main")
    drawing.join("x", "cat", "vhv", at=0.75)


def attention(drawing: Drawing, of: str, rule: str, *, row: float, title: str, key: str = "") -> None:
    """Lay out queries, keys and values, the attention, and the weighted sum with the input, over three rows."""
    p = key or of
    drawing.words(f"{p} in", (0, row + 1), "in", shape=f"{of}<")
    for i, name in enumerate(("query", "key", "value")):
        drawing.box(f"{p} {name}", (1.1, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    drawing.box(f"{p} attend", (2.6, row + 1), rule, kind="attention", shape=of, size=(1.7, 2))
    drawing.add(f"{p} plus", (3.8, row + 1), shape=of)
    drawing.words(f"{p} out", (4.5, row + 1), "out")
    drawing.flow(f"{p} in", f"{p} key", f"{p} attend", f"{p} plus", f"{p} out")
    for name in ("query", "value"):
        drawing.join(f"{p} in", f"{p} {name}", at=0.75)
        drawing.join(f"{p} {name}", f"{p} attend")
    drawing.join(f"{p} in", f"{p} plus", "vhv", at=row + 2.75)
    drawing.frame(title, [f"{p} query", f"{p} in", f"{p} value", f"{p} out"], of=of)


def compact(drawing: Drawing, of: str, *, row: float, columns: float = 0.0) -> None:
    """Lay out CGNL: one number a group from phi and g, which scales theta."""
    c = columns
    drawing.words("cgnl in", (c, row + 1), "in", shape=f"{of}<")
    for i, name in enumerate(("theta", "phi", "g")):
        drawing.box(name, (c + 1.1, row + i), f"{name}\n{{}}", of=f"{of}.{name}")
    drawing.box("sum", (c + 2.4, row + 1.5), "a = Σ phi · g\none number\na group", kind="attention", size=(1.25, 0.6))
    drawing.add("times", (c + 3.3, row), "×", shape=f"{of}.expand<")
    drawing.box("expand", (c + 4.2, row), of=f"{of}.expand", size=(1.2, 0))
    drawing.box("norm", (c + 5.3, row), "group\nnorm", of=f"{of}.norm", size=(0.8, 0))
    drawing.add("cgnl plus", (c + 6, row), shape=of)
    drawing.words("cgnl out", (c + 6.6, row), "out")
    drawing.flow("cgnl in", "phi")
    for name in ("theta", "g"):
        drawing.join("cgnl in", name, at=0.75)
    drawing.join("phi", "sum", at=0.85)
    drawing.join("g", "sum", at=0.85)
    drawing.join("sum", "times", "hv")
    drawing.flow("theta", "times", "expand", "norm", "cgnl plus", "cgnl out")
    drawing.join("cgnl in", "cgnl plus", "vhv", at=row + 2.7)
    drawing.frame("Cgnl", ["cgnl in", "theta", "g", "cgnl out"], of=of)


def half_size(d: Drawing, of: str, *, row: float) -> None:
    """Lay out `cgnl.HalfSize` around CGNL in one row."""
    d.words("half in", (0, row), "in", shape=f"{of}<")
    d.box("down", (1.1, row), of=f"{of}.down", size=(1.25, 0))
    d.box("module", (2.4, row), "Cgnl", of=f"{of}.module", kind="attention")
    d.box("up", (3.5, row), "resize", shape=of)
    d.words("half out", (4.4, row), "out")
    d.flow("half in", "down", "module", "up", "half out")
    d.frame("HalfSize", ["half in", "down", "half out"], of=of)


def channels(drawing: Drawing, of: str, *, row: float, title: str) -> None:
    """Lay out channel attention among the channels themselves."""
    drawing.words("cam in", (0, row), "in", shape=f"{of}<")
    drawing.box(
        "cam attend", (1.7, row), "softmax(-x · x′) x\nover channels, × γ", kind="attention", shape=of, size=(1.8, 0)
    )
    drawing.add("cam plus", (2.9, row), shape=of)
    drawing.words("cam out", (3.6, row), "out")
    drawing.flow("cam in", "cam attend", "cam plus", "cam out")
    drawing.join("cam in", "cam plus", "vhv", at=row + 0.7)
    drawing.frame(title, ["cam in", "cam attend", "cam out"], of=of)

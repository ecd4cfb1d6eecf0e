"""Layouts of the heads without attention between pixels: which boxes and arrows each drawing has."""

from __future__ import annotations

from diagram import Drawing
from measured import defaults


def fcn() -> Drawing:
    """A 3x3 and a classifier."""
    d = Drawing("fcn", defaults("fcn", "resnet101"))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("reduce", (1.1, 0), of="layers.0")
    d.box("classify", (2.2, 0), "dropout\n{}", of="layers.2", kind="classifier")
    d.words("main", (3.1, 0), "main")
    d.flow("x", "reduce", "classify", "main")
    return d


def gap() -> Drawing:
    """The pooled map beside the map."""
    d = Drawing("gap", defaults("gap", "resnet101"))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("pool", (1.2, 1), "mean\n{}", of="context.layers", kind="context")
    d.box("spread", (2.3, 1), "to every\npixel", kind="context", shape="context")
    d.add("cat", (3.2, 0), "‖", shape="layers<")
    d.box("reduce", (4.1, 0), of="layers.0")
    d.box("classify", (5.2, 0), "dropout\n{}", of="layers.2", kind="classifier")
    d.words("main", (6.1, 0), "main")
    d.flow("x", "cat", "reduce", "classify", "main")
    d.join("x", "pool", "vh", label=False)
    d.flow("pool", "spread")
    d.join("spread", "cat", "hv")
    return d


def se() -> Drawing:
    """A weight for each channel."""
    d = Drawing("se", defaults("se", "resnet101"))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("reduce", (1.1, 0), of="layers.0")
    d.box("mean", (2.1, 1), "mean", kind="context", shape="layers.1.squeeze<", size=(0.8, 0))
    d.box("squeeze", (3.1, 1), "{}\nReLU", of="layers.1.squeeze", kind="context")
    d.box("expand", (4.2, 1), "{}\nsigmoid", of="layers.1.expand", kind="context")
    d.add("times", (5.1, 0), "×", shape="layers.1")
    d.box("classify", (6, 0), "dropout\n{}", of="layers.3", kind="classifier")
    d.words("main", (6.8, 0), "main")
    d.flow("x", "reduce", "times", "classify", "main")
    d.join("reduce", "mean", "vh", label=False)
    d.flow("mean", "squeeze", "expand")
    d.join("expand", "times", "hv")
    return d


def psp() -> Drawing:
    """Four pooled levels beside the map."""
    d = Drawing("psp", defaults("psp", "resnet101", size_px=713))
    d.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    d.box("cat", (3, 2), "resize,\nconcatenate", kind="plain", shape="ppm.fuse<", size=(1.15, 4))
    d.box("fuse", (4.2, 2), of="ppm.fuse")
    d.box("classify", (5.3, 2), "dropout\n{}", of="classify", kind="classifier")
    d.words("main", (6.2, 2), "main")
    d.join("x", "cat")
    for i, bins in enumerate(d.setting.head.model_dump()["bins"]):
        level = f"level {i}"
        d.box(level, (1.5, i + 1), f"mean of {bins}×{bins}\n{{}}", of=f"ppm.levels.{i}", kind="context", size=(1.2, 0))
        d.join("x", level, "vh", label=False)
        d.join(level, "cat")
    d.flow("cat", "fuse", "classify", "main")
    return d


def aspp() -> Drawing:
    """Dilated branches and the pooled image."""
    d = Drawing("aspp", defaults("aspp", "resnet101"))
    d.box("x", (0, 2), "stage 4", kind="backbone", shape="x4")
    d.box("cat", (3.1, 2), "concatenate", kind="plain", shape="aspp.project<", size=(1.15, 4))
    d.box("project", (4.3, 2), of="aspp.project")
    d.box("classify", (5.4, 2), "dropout\n{}", of="classify", kind="classifier")
    d.words("main", (6.3, 2), "main")
    names = [f"aspp.branches.{i}" for i in range(4)]
    for i, branch in enumerate([*names, "aspp.image"]):
        text = "mean\n{}" if branch == "aspp.image" else "{}"
        d.box(branch, (1.6, i), text, of=branch, kind="context", size=(1.25, 0))
    for branch in [names[2], *names[:2], names[3], "aspp.image"]:
        d.join("x", branch, at=0.8)
        d.join(branch, "cat")
    d.flow("cat", "project", "classify", "main")
    return d


LAYOUTS = (fcn, gap, se, psp, aspp)

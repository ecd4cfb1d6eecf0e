"""The published cells, and what counts rayseg's modules as each of them was counted.

A cell is "direct" where a known architecture is counted, "fitted" where the architecture was chosen because it gives
the cell. Cells that contradict each other cannot all be met: they are marked, and their notes say how they clash.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch

from rayseg.calibration import references
from rayseg.calibration.counting import parameters, peak_bytes, product_flops, thop_flops
from rayseg.heads.ccnet import CrissCross
from rayseg.heads.nonlocal_net import NonLocal

Build = Callable[[], Any]
"""Builds a net, on the meta device."""

NOTES = {
    "a": "122 M layouts were enumerated against DF-DAM's four cells: parsimony, not proof.",
    "b": "One recurrence; CCNet itself runs two.",
    "c": "Position and channel attention without the convolutions around them.",
    "d": "Table V counted a re-implementation, which is not public; the sizes here are those of DRANet's authors.",
    "e": "Every N x N map kept, as the authors' module does.",
    "f": "GALD's cells clash: one head on R101 and on R50 must differ by what the backbones differ by, and 65.4 - 47.5 "
    "does not; 65.4 + 2.3 is 67.7, and Table VI has 66.8. Is 65.4 a transposed 64.5?",
    "g": "Not unique: other layouts give the cell. ASPP 256 wide inside, 512 outside; X_l 512; two 3x3.",
    "h": "The whole block: depthwise, CGNL and mask. The mask's layers, LDv1 proper, are a small part.",
    "i": "Not unique. Queries, keys, values and X_l 256 wide, biases and norms left out.",
    "j": "The authors' code without its auxiliary head.",
    "k": "No code and no layout was published; rayseg's is 256 wide.",
    "l": "No PSPNet on ResNet-101 has 42.1 M: the backbone alone has more.",
    "m": "Table V's memory is no consistent set: 407 M for plain attention would be 19 maps of N x N, and it keeps two "
    "or three. Ours is the module as rayseg computes it.",
    "n": "Not published: a count of the author's code, to guard against drift.",
    "o": "The author's code has 8 421 parameters more, of a block that it builds and never uses.",
    "p": "By design: rayseg computes the same without maps of N x N.",
}
"""What a reader of the table must know, by the letter that it has there."""
CLASHES = frozenset("flm")
"""The notes that say why a cell cannot be met."""


class Cell(NamedTuple):
    """A published number, as printed, in the unit of its convention, and what counts ours likewise."""

    source: str
    what: str
    published: str
    convention: str
    ours: Callable[[], int]
    notes: str = ""
    kind: Literal["direct", "fitted"] = "direct"

    @property
    def contradicted(self) -> bool:
        """Whether another cell, or arithmetic, says otherwise."""
        return bool(CLASHES & set(self.notes))


def cells() -> list[Cell]:
    """List every cell, paper by paper."""
    return [*_df_dam(), *_denoised(), *_gald(), *_authors_code()]


# --- DF-DAM ---------------------------------------------------------------------------------------------------------


def _df_dam() -> list[Cell]:
    ours = partial(references.model, "dfdam", output_stride=32)
    deeplab, psp = references.DeepLabV2, references.psp_net
    return [
        *_net("DF-DAM T4", "DF-DAM R18", ("11.57", "10.31"), partial(ours, "resnet18", 19), "a"),
        *_net("DF-DAM T4", "DeepLabv2 R101", ("43.90", "148.73"), partial(deeplab, 19)),
        *_net("DF-DAM T4", "PSPNet R101", ("75.04", "230.01"), partial(psp, 19)),
        *_net("DF-DAM T6", "DF-DAM R101", ("43.24", "35.52"), partial(ours, "resnet101", 21), "a"),
        *_net("DF-DAM T6", "DeepLabv2 R101", ("44.05", "149.22"), partial(deeplab, 21)),
        *_net("DF-DAM T6", "PSPNet R101", ("75.05", "230.02"), partial(psp, 21)),
    ]


def _net(source: str, what: str, published: tuple[str, str], build: Build, notes: str = "") -> list[Cell]:
    """Make the two cells of a net, parameters and FLOPs; DF-DAM's own are fitted."""
    image = torch.empty(1, 3, 640, 320, device="meta")
    kind: Literal["direct", "fitted"] = "fitted" if notes else "direct"
    once = cache(build)
    return [
        Cell(source, what, published[0], "params+aux", lambda: parameters(once()), notes, kind),
        Cell(source, what, published[1], "thop", lambda: thop_flops(once().train(), image), notes, kind),
    ]


# --- denoised non-local ---------------------------------------------------------------------------------------------


def _denoised() -> list[Cell]:
    attention = partial(NonLocal, 512)
    criss_cross = partial(CrissCross, 512, recurrence=1)
    dual, compact = references.DualAttention, references.CompactAttention
    ours = references.Rectified
    return [
        _module("+NL", "7.63", "2/MAC", attention),
        _module("+CCNet", "1.77", "2/MAC", criss_cross, "b"),
        _module("+DANet", "10.04", "2/MAC", dual, "c"),
        _module("+DRANet*", "0.76", "2/MAC", compact, "cd"),
        _module("+Denoised NL", "7.83", "2/MAC", ours),
        _module("+Denoised NL, maps kept", "7.83", "2/MAC", references.NaiveDenoised, "e"),
        _module("+NL", "407", "peak", attention, "m"),
        _module("+CCNet", "52", "peak", criss_cross, "bm"),
        _module("+DANet", "570", "peak", dual, "cm"),
        _module("+DRANet*", "30", "peak", compact, "cdm"),
        _module("+Denoised NL", "428", "peak", ours, "p"),
        _module("+Denoised NL, maps kept", "428", "peak", references.NaiveDenoised, "e"),
    ]


def _module(what: str, published: str, convention: str, build: Build, notes: str = "") -> Cell:
    """Make a cell of Table V: a module on 512 channels at stride 16 of 768 x 768."""

    def ours() -> int:
        with torch.device("meta"):
            net, features = build().eval(), torch.empty(1, 512, 48, 48)
            return peak_bytes(net, features) if convention == "peak" else product_flops(net, features)

    return Cell("Denoised NL T5", what, published, convention, ours, notes)


# --- GALD -----------------------------------------------------------------------------------------------------------


def _gald() -> list[Cell]:
    baseline, whole = references.gald_aspp, _without_auxiliary
    v1 = partial(whole, "gald", "resnet101s", ga="cgnl", ld="v1")
    return [
        _sized("T4", "FCN + ASPP R50", "47.5", lambda: parameters(baseline("resnet50")), "fg", "fitted"),
        _sized("T4", "FCN + ASPP R101", "65.4", lambda: parameters(baseline("resnet101")), "fg", "fitted"),
        _sized("T4", "R101 - R50, one head", "17.9", _backbones_apart, "f"),
        _sized("T4", "LDv1, added", "0.4", _masked_block, "h"),
        _sized("T4", "LDv2, added", "2.3", _local_distribution, "i", "fitted"),
        _sized("T6", "PSPNet R101", "42.1", partial(whole, "psp", "resnet101"), "l"),
        _sized("T6", "CCNet R101", "66.5", partial(whole, "ccnet", "resnet101s")),
        _sized("T6", "DANet R101", "66.6", partial(whole, "danet", "resnet101s")),
        _sized("T6", "GALDv1 R101", "65.3", v1, "j"),
        _sized("T6", "GALDv2 R101, rayseg's", "66.8", partial(whole, "gald", "resnet101"), "fk"),
        _sized("T6", "GALDv2 R101, T4's + LDv2", "66.8", _baseline_with_v2, "fg", "fitted"),
    ]


def _sized(
    table: str,
    what: str,
    published: str,
    ours: Callable[[], int],
    notes: str = "",
    kind: Literal["direct", "fitted"] = "direct",
) -> Cell:
    """Make a cell of GALD's tables: parameters without auxiliary heads."""
    return Cell(f"GALD {table}", what, published, "params", ours, notes, kind)


def _without_auxiliary(head: str, backbone: str, **options: Any) -> int:
    net = references.model(head, backbone, 19, **options)
    return parameters(net.backbone, net.head)


def _backbones_apart() -> int:
    return parameters(references.gald_aspp("resnet101")) - parameters(references.gald_aspp("resnet50"))


def _masked_block() -> int:
    head: Any = references.model("gald", "resnet101s", 19, ga="cgnl", ld="v1").head
    return parameters(head.layers.context)


def _local_distribution() -> int:
    head: Any = references.model("gald", "resnet101", 19).head
    return parameters(head.layers.context.ld, head.layers.local[0])


def _baseline_with_v2() -> int:
    return parameters(references.gald_aspp("resnet101")) + _local_distribution()


# --- authors' code --------------------------------------------------------------------------------------------------


def _authors_code() -> list[Cell]:
    gald = partial(references.model, "gald", num_classes=19, ga="cgnl", ld="v1")
    dfn = partial(references.model, "dfn", "resnet101s", 19, output_stride=32)
    denoised = partial(references.model, "denoised_nl", num_classes=19)
    return [
        _code("GALDv1 R50", "52.402662", "params+aux", partial(gald, "resnet50s")),
        _code("GALDv1 R101", "71.394790", "params+aux", partial(gald, "resnet101s")),
        _code("DFN R101", "90.217888", "params+aux", dfn, "no"),
        _code("DFN R101, 640x320", "216.57", "1/MAC", dfn, size=(640, 320)),
        _code("Denoised NL R50", "59.671866", "params+aux", partial(denoised, "resnet50s")),
        _code("Denoised NL R101", "78.663994", "params+aux", partial(denoised, "resnet101s")),
        _code("Denoised NL R50, 768x768", "524.2", "1/MAC", partial(denoised, "resnet50s"), size=(768, 768)),
        _code("Denoised NL R101, 768x768", "698.8", "1/MAC", partial(denoised, "resnet101s"), size=(768, 768)),
    ]


def _code(
    what: str,
    published: str,
    convention: str,
    build: Build,
    notes: str = "n",
    *,
    size: tuple[int, int] = (0, 0),
) -> Cell:
    """Make a cell that no paper prints: what the author's code counts to."""

    def ours() -> int:
        if convention != "1/MAC":
            return parameters(build())
        return product_flops(build().train(), torch.empty(1, 3, *size, device="meta")) // 2

    return Cell("author's code", what, published, convention, ours, notes)

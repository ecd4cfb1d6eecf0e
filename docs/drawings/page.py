"""The parts of docs/heads.md that are counted and not written: between `<!-- name -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import attentions
import baselines
import contexts
import stages
from diagram import Drawing
from measured import Setting, counts, defaults

from rayseg import heads
from rayseg.calibration.cells import Cell, cells
from rayseg.calibration.counting import CONVENTIONS

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "heads.md"
PICTURES = DOCS / "pictures" / "heads"
LAYOUTS = (*baselines.LAYOUTS, *attentions.LAYOUTS, *contexts.LAYOUTS, *stages.LAYOUTS)


class About(NamedTuple):
    """A head's name as its paper writes it, a link, what it does for context; the stride its paper has it at."""

    title: str
    link: str
    context: str
    output_stride: int = 8


ABOUT = {
    "aspp": About("DeepLabv3", "https://arxiv.org/abs/1706.05587", "dilated 3×3 at three rates, image mean"),
    "ccnet": About("CCNet", "https://arxiv.org/abs/1811.11721", "attention along row and column, twice"),
    "cgnl": About("CGNL", "https://arxiv.org/abs/1810.13125", "attention of all (channel, pixel) pairs, linear"),
    "danet": About("DANet", "https://arxiv.org/abs/1809.02983", "attention of pixels, attention of channels"),
    "denoised_nl": About("Denoised NL", "https://arxiv.org/abs/2110.14200", "attention, rectified and smoothed"),
    "dfdam": About("DF-DAM", "https://arxiv.org/abs/1911.08149", "channel weights for context, pixel weights", 32),
    "dfn": About("DFN", "https://arxiv.org/abs/1804.09337", "channel weights, deep to shallow; borders", 32),
    "dgcw": About("DGCWNet", "https://arxiv.org/abs/2004.12679", "channel weights from the distance of pixels"),
    "dranet": About("DRANet", "https://doi.org/10.1109/TNNLS.2020.3006524", "attention to 50 cells, to 1/16 channels"),
    "fcn": About("FCN", "https://arxiv.org/abs/1411.4038", "none"),
    "gald": About("GALD", "https://arxiv.org/abs/2107.13154", "PSP, ASPP, NL or CGNL, distributed pixel by pixel"),
    "gap": About("ParseNet's GAP", "https://arxiv.org/abs/1506.04579", "image mean"),
    "nonlocal_net": About("Non-local", "https://arxiv.org/abs/1711.07971", "attention of all pixels"),
    "ocnet": About("OCNet", "https://arxiv.org/abs/1809.00916", "attention of all pixels, queries are keys"),
    "psp": About("PSPNet", "https://arxiv.org/abs/1612.01105", "means of a pyramid of cells"),
    "se": About("SE", "https://arxiv.org/abs/1709.01507", "channel weights from the image mean"),
}

CELLS: dict[str, Callable[[Cell], bool]] = {
    "psp": lambda c: c.what == "PSPNet R101" and c.source == "GALD T6",
    "nonlocal_net": lambda c: c.what == "+NL" and c.convention == "2/MAC",
    "ccnet": lambda c: "CCNet" in c.what and c.convention != "peak",
    "danet": lambda c: "DANet" in c.what and c.convention != "peak",
    "dranet": lambda c: "DRANet" in c.what and c.convention != "peak",
    "gald_v1": lambda c: "GALDv1" in c.what or "LDv1" in c.what,
    "gald_v2": lambda c: "LDv2, added" in c.what or "GALDv2 R101, rayseg" in c.what,
    "dfdam": lambda c: "DF-DAM R" in c.what,
    "dfn": lambda c: c.what == "DFN R101",
    "denoised_nl": lambda c: (
        c.what in ("+Denoised NL", "Denoised NL R50", "Denoised NL R101") and c.convention != "peak"
    ),
}
"""Which of the calibration's cells are this drawing's head's."""

# --- blocks ---------------------------------------------------------------------------------------------------------


def blocks(drawings: Sequence[Drawing]) -> dict[str, str]:
    """Make every block by its name."""
    by_head: dict[str, Drawing] = {}
    for drawing in drawings:
        by_head[drawing.setting.head.name] = drawing
    made = {f"counts:{drawing.name}": _counts(drawing) for drawing in drawings}
    return {"heads": _heads(by_head), **made}


def _heads(drawings: Mapping[str, Drawing]) -> str:
    lines = ["| Head | Paper | Reads stages | Context | Logits at stride | M parameters | of these head | GFLOPs |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in heads.names():
        about, drawing = ABOUT[name], drawings[name]
        found = counts(defaults(name, "resnet101s", output_stride=about.output_stride))
        stages = ", ".join(sorted({box.shape[1:] for box in drawing.boxes.values() if box.kind == "backbone"}))
        size = drawing.measured.shapes["=main"][-1]
        stride = -(-drawing.setting.size_px[1] // size)
        at = "" if about.output_stride == 8 else f" (of {about.output_stride})"
        lines.append(
            f"| [`{name}`](#{name}) | [{about.title}]({about.link}) | {stages} | {about.context} | {stride}{at} "
            f"| {found.params / 1e6:.3f} | {found.head_params / 1e6:.3f} | {2e-9 * found.macs:.1f} |"
        )
    return "\n".join(lines)


def _counts(drawing: Drawing) -> str:
    text = _sentence(drawing.setting)
    rows = [c for c in cells() if drawing.name in CELLS and CELLS[drawing.name](c)]
    if not rows:
        return text
    lines = ["| Published | of | by | rayseg | counted |", "|---|---|---|---|---|"]
    return "\n".join([text, "", *lines, *map(_row, rows)])


def _sentence(setting: Setting) -> str:
    found, (height, width) = counts(setting), setting.size_px
    aux = f", {found.aux_params / 1e6:.3f} M the auxiliary head's" if found.aux_params else ""
    return (
        f"`{setting.backbone.name}` at output stride {setting.backbone.output_stride}, 3×{height}×{width}, 19 classes: "
        f"{found.params / 1e6:.3f} M parameters, of these {found.head_params / 1e6:.3f} M the head's{aux}; "
        f"{2e-9 * found.macs:.1f} GFLOPs."
    )


def _row(cell: Cell) -> str:
    how = CONVENTIONS[cell.convention]
    published, ours = f"{cell.published} {how.unit}", f"{cell.ours() / how.scale:.3f} {how.unit}"
    mark = ", contradicted" if cell.contradicted else ""
    return f"| {published} | {cell.what} | {cell.source} | {ours} | {cell.convention}{mark} |"


# --- the page -------------------------------------------------------------------------------------------------------


def filled(page: str, made: Mapping[str, str]) -> str:
    """Put blocks into a page.

    Raises:
        ValueError: a block has no place in the page, or a place no block.
    """
    places = re.findall(r"<!-- ((?!end\b)\S+) -->", page)
    if sorted(places) != sorted(made):
        raise ValueError(f"in the page alone or in the counts alone: {sorted(set(places) ^ set(made))}")
    for name, text in made.items():
        start = re.escape(f"<!-- {name} -->")
        page = re.sub(
            f"{start}.*?<!-- end -->", f"<!-- {name} -->\n{text}\n<!-- end -->".replace("\\", r"\\"), page, flags=re.S
        )
    return page

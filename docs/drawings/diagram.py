"""A head's data flow: boxes on a grid, arrows labelled with the shapes that its modules were measured to give.

Above an arrow stand the channels, below it height x width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import svg
from geometry import CIRCLE, LINE, PADDING, ROW, WIDTH, Arrow, Box, Frame, Point, around, path, text_width
from geometry import label as place_label
from measured import Measured, Setting


class Drawing:
    """Boxes, arrows and frames of one head; `setting` is what the shapes are measured with, `column` a grid's width."""

    def __init__(self, name: str, setting: Setting, *, column: float = 132.0) -> None:
        self.name, self.setting, self.column = name, setting, column
        self.measured = Measured(setting)
        self.boxes: dict[str, Box] = {}
        self.arrows: list[Arrow] = []
        self.frames: list[Frame] = []
        self.labelled: set[str] = set()

    # --- what a layout calls ----------------------------------------------------------------------------------------

    def box(
        self,
        name: str,
        at: Point,
        text: str = "{}",
        *,
        of: str = "",
        kind: str = "plain",
        shape: str | None = None,
        size: tuple[float, float] = (1, 0),
    ) -> None:
        """Add a box at (column, row).

        In `text`, `{}` are the layers of module `of`, `{first}` and `{last}` the outer ones, `{C}` and `{N}` the
        channels and pixels of `shape`. That is the output's, the module's where None; "" leaves its arrow without.
        `size` is (times the usual width, at least so many rows high).
        """
        assert name not in self.boxes, name
        shape = of if shape is None else shape
        lines = tuple(self._filled(text, of, shape or of).split("\n"))
        width, height = WIDTH * size[0], max(len(lines) * LINE, size[1] * ROW + LINE) + 2 * PADDING
        if kind == "circle":
            width = height = 2 * CIRCLE
        if kind == "words":
            width = max(map(text_width, lines)) + 8
        self.boxes[name] = Box(at[0] * self.column, at[1] * ROW, lines, kind, of, shape, width, height)

    def _filled(self, text: str, of: str, shape: str) -> str:
        layers = self.measured.layers(of) if of and "{" in text else []
        if layers:
            text = text.replace("{}", "\n".join(layers)).replace("{first}", layers[0]).replace("{last}", layers[-1])
        if "{C}" in text or "{N}" in text:
            channels, *pixels = self.measured.shapes[shape]
            text = text.replace("{C}", str(channels)).replace("{N}", str(pixels[0] * pixels[-1]))
        return text

    def add(self, name: str, at: Point, sign: str = "+", *, shape: str = "") -> None:
        """Add a sum, a product or another sign in a circle."""
        self.box(name, at, sign, kind="circle", shape=shape)

    def words(self, name: str, at: Point, text: str, *, shape: str = "") -> None:
        """Add a name without a box: where data come from or go to."""
        self.box(name, at, text, kind="words", shape=shape)

    def flow(self, *names: str) -> None:
        """Join boxes one after the other by straight arrows."""
        for source, target in itertools.pairwise(names):
            self.join(source, target)

    def join(
        self,
        source: str,
        target: str,
        turns: str = "h",
        *,
        at: float = 0.5,
        label: bool | None = None,
        training: bool = False,
    ) -> None:
        """Draw an arrow. `turns` are its directions.

        "h" turns twice where rows differ, at `at` of the way; "hv", "vh" and "v" need no more; "vhv" goes along row
        `at`. A source's shape stands at its first arrow unless `label` says otherwise.
        """
        a, b = self.boxes[source], self.boxes[target]
        points = path(a, b, turns, at)
        wanted = source not in self.labelled if label is None else label
        shape = self.measured.shapes[a.shape] if wanted and a.shape else ()
        self.labelled |= {source} if shape else set()
        self.arrows.append(Arrow((source, target), points, place_label(points, shape), training))

    def frame(self, title: str, names: Sequence[str], *, of: str) -> None:
        """Frame the boxes that module `of` consists of, with what is beside their arrows."""
        inside = [a for a in self.arrows if set(a.ends) & set(names)]
        area = around(self.boxes[name].area for name in names)
        bottom = max([area.bottom, *(y for a in inside for _, y in a.points)])
        right = max([area.right, *(beside.right for a in inside for beside in a.label_areas)])
        self.frames.append(Frame(title, of, area._replace(top=area.top - 22, right=right, bottom=bottom).grown(12)))

    # --- what is made and asserted of it ----------------------------------------------------------------------------

    def svg(self) -> str:
        """Write it."""
        dashed = " Dashed: in training only." if any(arrow.dashed for arrow in self.arrows) else ""
        title, caption = f"Data flow of {self.name}", f"{self.setting}.{dashed}"
        return svg.document(title, caption, list(self.boxes.values()), self.arrows, self.frames)

    def unknown(self) -> list[str]:
        """List the modules that it shows and the head does not have."""
        shown = {box.of for box in self.boxes.values() if box.of} | {frame.of for frame in self.frames}
        return sorted(shown - self.measured.modules.keys())

    def undrawn(self) -> list[str]:
        """List the parameters in no box; a framed module's box has its own, not those of the modules in it."""
        framed = {frame.of for frame in self.frames}
        whole = {box.of for box in self.boxes.values() if box.of} - framed
        names = [name for name, _ in self.measured.head.named_parameters() if name.rpartition(".")[0] not in framed]
        return [name for name in names if not any(name.startswith(f"{module}.") for module in whole)]

    def faults(self) -> list[str]:
        """List what would not be readable: texts wider than their place, things on top of each other."""
        faults = [f"text of {n} is too wide" for n, b in self.boxes.items() if b.kind != "circle" and b.overflows]
        boxes = [(name, box.area) for name, box in self.boxes.items()]
        texts = [(f"label of {a.ends}", area) for a in self.arrows for area in a.label_areas]
        texts += [(f"title {frame.title}", frame.title_area) for frame in self.frames]
        pairs = itertools.combinations(boxes + texts, 2)
        faults += [f"{m} on {n}" for (m, one), (n, other) in pairs if one.meets(other)]
        for arrow in self.arrows:
            others = [(n, area) for n, area in boxes if n not in arrow.ends]
            others += [(n, area) for n, area in texts if area not in arrow.label_areas]
            faults += [f"{arrow.ends} through {n}" for n, area in others if arrow.hits(area)]
        return faults

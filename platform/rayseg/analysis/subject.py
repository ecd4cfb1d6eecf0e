"""A run at work on one image: its model, what it sees of the image, and what passes through the modules meanwhile.

The forward pass is the one that an evaluation makes: the best commit's weights, the run's precision, one view at scale
1, not mirrored. A run that tests in windows sees a window here too, for attention over more pixels is another one:
the window whose middle lies nearest to the point, or to the image's middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayseg.analysis.catalogue import Figure
from rayseg.data.reader import Sample, ShardSet
from rayseg.errors import DataError, UsageError, nearest
from rayseg.train import inference, views
from rayseg.train.commit import Commit
from rayseg.train.step import to_device

M = TypeVar("M", bound=nn.Module)
Arrays = dict[str, NDArray[Any]]
Pixel = tuple[int, int]
Tick = Callable[[int, int], None]


class Result(NamedTuple):
    """What a figure is: its arrays by the catalogue's names, and its main numbers in words."""

    arrays: Arrays
    numbers: dict[str, str]


class Call(NamedTuple):
    """What went into a module and what came out, in one forward pass."""

    inputs: tuple[Any, ...]
    output: Any


class Subject(NamedTuple):
    """A commit at work, and a split to look at; `name` is the run's."""

    name: str
    commit: Commit
    split: str
    shards: ShardSet
    trained: inference.Trained

    @property
    def head(self) -> str:
        """The head's name."""
        return self.trained.config.head.name

    def __str__(self) -> str:
        return f"{self.name} ({self.head}), step {self.commit.step}"


class View(NamedTuple):
    """What the model sees of a sample: the image or a window of it, and where the point lies in that."""

    key: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    corner: Pixel
    point: Pixel | None

    def arrays(self, prediction: NDArray[Any]) -> Arrays:
        """Give the arrays of every figure of one image."""
        seen: Arrays = {"image": self.image, "truth": self.mask, "prediction": prediction.astype(np.uint8)}
        seen["corner"] = np.array(self.corner)
        return seen if self.point is None else {**seen, "point": np.array(self.point)}

    def cell(self, map_size: Pixel) -> Pixel:
        """Give the pixel (row, column) of a map of the whole view in which the point lies."""
        assert self.point is not None
        return tuple(at * cells // side for at, cells, side in zip(self.point, map_size, self.mask.shape, strict=True))  # type: ignore[return-value]


class Asked(NamedTuple):
    """What a figure is computed from; `views` are of the samples, in their order."""

    figure: Figure
    subject: Subject
    against: Subject | None
    samples: list[Sample]
    views: list[View]
    progress: Tick | None = None

    def module(self, kind: type[M]) -> M:
        """Find the head's one module of a kind.

        Raises:
            UsageError: this head has none; the heads that have one are named.
        """
        for module in self.subject.trained.model.head.modules():
            if isinstance(module, kind):
                return module
        what = f"the {self.subject.head} head of {self.subject.name} does not have what {self.figure.name} shows"
        raise UsageError(what, "--figure", f"choose a run of {self.figure.heads}")


def open_run(place: Path, split: str | None, shards: str | None) -> Subject:
    """Load a run's best commit, or a commit, and open the split (its own validation split when absent).

    Raises:
        CheckpointError: no run or commit, no commit with an evaluation, or other classes than the shards'.
        DataError: no such shards or split, or it is empty.
    """
    found = inference.subject(place, shards, split)
    if not len(found.shards):
        raise DataError(f"the split '{found.split}' is empty", found.shards.folder, "choose one that has samples")
    run = found.commit.path.parents[1]
    name = f"{run.parents[1].name}/{run.name}" if run.parent.name == "trials" else run.name
    return Subject(name, found.commit, found.split, found.shards, found.trained)


def find(subject: Subject, key: str) -> Sample:
    """Read a sample by its key.

    Raises:
        UsageError: the split has none of that key; the nearest are named.
    """
    keys = [str(known) for known in subject.shards.index.key]
    if key not in keys:
        fix = nearest(key, keys)
        raise UsageError(f"no image '{key}' in split '{subject.split}'", "--image", fix)
    return subject.shards.read(keys.index(key))


def look(subject: Subject, sample: Sample, point: Pixel | None) -> View:
    """Choose what the model sees of a sample, around the point (y, x) where one is given.

    Raises:
        UsageError: the point lies outside the image.
    """
    height, width = sample.mask.shape
    if point is not None and not (0 <= point[0] < height and 0 <= point[1] < width):
        what = f"the point {point[0]},{point[1]} lies outside {sample.key}, {height} pixels high and {width} wide"
        raise UsageError(what, "--point", f"choose Y from 0 to {height - 1} and X from 0 to {width - 1}")
    y, x = point or (height // 2, width // 2)

    def distance(box: tuple[slice, slice]) -> float:
        rows, columns = box
        return abs(rows.start + rows.stop - 1 - 2 * y) + abs(columns.start + columns.stop - 1 - 2 * x)

    rows, columns = min(views.windows((height, width), subject.trained.config.test), key=distance)
    inside = None if point is None else (y - rows.start, x - columns.start)
    return View(
        sample.key, sample.image[rows, columns], sample.mask[rows, columns], (rows.start, columns.start), inside
    )


@contextmanager
def computing(subject: Subject) -> Iterator[None]:
    """Compute as an evaluation does: without gradients, in the run's precision."""
    kind, precision = subject.trained.runtime.device.type, subject.trained.precision
    with torch.inference_mode(), torch.autocast(kind, dtype=precision, enabled=precision != torch.float32):
        yield


def forward(
    subject: Subject, image: NDArray[np.uint8], modules: Mapping[str, nn.Module]
) -> tuple[Tensor, dict[str, Call]]:
    """Let the model look at an image (H, W, 3): logits (C, H, W), and what passed through `modules`, by name."""
    x_BCHW = to_device(np.ascontiguousarray(image)[None], subject.trained.runtime.device, channels_last=True)
    with computing(subject), watched(modules) as calls:
        logits_BCHW = subject.trained.model(x_BCHW)["main"]
    return logits_BCHW[0], calls


@contextmanager
def watched(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Keep what goes through the modules, in the dict that is given; of several calls the last one."""
    calls: dict[str, Call] = {}

    def watch(name: str, module: nn.Module) -> Any:
        # No copies: what is watched is never changed in place afterwards.
        return module.register_forward_hook(lambda _, inputs, output: calls.update({name: Call(inputs, output)}))

    handles = [watch(name, module) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def classes(logits_CHW: Tensor) -> NDArray[np.uint8]:
    """Give the class of the highest logit at each pixel."""
    return logits_CHW.argmax(0).to(torch.uint8).cpu().numpy()


def plain(x: Tensor) -> NDArray[np.float32]:
    """Give a tensor as a float32 array."""
    return x.float().cpu().numpy()


def at_cells(labels_HW: NDArray[Any], map_size: Pixel) -> NDArray[Any]:
    """Give the label in the middle of each of a map's cells (h, w): what `View.cell` counts in."""
    (rows, columns) = (
        (2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(map_size, labels_HW.shape, strict=True)
    )
    return labels_HW[np.ix_(rows, columns)]

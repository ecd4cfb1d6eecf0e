"""DGCWNet's Figure 3: does the module move the classes' features apart? (https://arxiv.org/abs/2004.12679, eq. 8)

Each class's mean feature over the whole set, then each channel's variance over the classes: how many channels have
much of it? The paper compares the last maps of two networks, ResNet101-ASPP with DGCW and without, each trained by
itself: `--against RUN`, which works for any two heads. The map that the last layer classifies is taken, for the two
may have different widths.

With one run alone, "without" is what enters its DGCW module and "with" what leaves it, F and F + sum_j R of eq. 5. That
is not the paper's comparison, but a narrower one: the same weights before the module, the same channels, nothing
retrained. A second training would have moved all else too.

A variance grows with the map's scale, and DGCW's sum has a larger scale than what it is added to; so the figure has a
second measure, the part that the classes' means have of the channel's whole variance.

Labels are those in the middle of a map's cells. Where the run tests in windows, a pixel counts in each that sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor, nn

from rayseg.analysis.moments import ClassMoments
from rayseg.analysis.subject import Arrays, Asked, Call, Result, Subject, Tick, at_cells, forward, plain
from rayseg.errors import DataError, UsageError
from rayseg.heads.dgcw import Dgcw
from rayseg.train import views


def class_variance(asked: Asked) -> Result:
    """Stream both maps over the split.

    Raises:
        UsageError: the head has no DGCW module and there is no second run.
        DataError: fewer than two classes occur.
    """
    if asked.against is None:
        watched = {"module": asked.module(Dgcw)}
        without, with_ = stream(asked.subject, watched, _around, asked.progress)
    else:
        with_, without = (stream(each, *_last_map(each), asked.progress)[0] for each in (asked.subject, asked.against))
    numbers = _numbers(without, with_, asked.subject, paired=asked.against is None)
    return Result(_arrays(without, with_), numbers)


def stream(
    subject: Subject,
    modules: Mapping[str, nn.Module],
    maps: Callable[[Mapping[str, Call]], tuple[Tensor, ...]],
    progress: Tick | None = None,
) -> list[ClassMoments]:
    """Take the moments of maps (1, D, h, w) over the whole split, an image (or a window of it) at a time."""
    found: list[ClassMoments] = []
    config, shards = subject.trained.config.test, subject.shards
    for position, sample in enumerate(shards):
        for rows, columns in views.windows((sample.mask.shape[0], sample.mask.shape[1]), config):
            mask = np.where(sample.mask == shards.ignore_index, shards.num_classes, sample.mask)[rows, columns]
            _, calls = forward(subject, sample.image[rows, columns], modules)
            features = [plain(x[0]) for x in maps(calls)]
            found = found or [ClassMoments(shards.num_classes, len(x)) for x in features]
            for moments, x_DHW in zip(found, features, strict=True):
                labels = at_cells(mask, (x_DHW.shape[1], x_DHW.shape[2]))
                moments.update(x_DHW.reshape(len(x_DHW), -1).T, labels.ravel())
        if progress is not None:
            progress(position + 1, len(shards))
    if found[0].occurring.sum() < 2:
        what = f"{found[0].occurring.sum()} class occurs in split '{subject.split}': there is no variance over classes"
        raise DataError(what, shards.folder, "choose a split with two classes at least")
    return found


def _around(calls: Mapping[str, Call]) -> tuple[Tensor, ...]:
    """Give what went into the module, and what came out."""
    return (*calls["module"].inputs, calls["module"].output)


def _last_map(subject: Subject) -> tuple[dict[str, nn.Module], Callable[[Mapping[str, Call]], tuple[Tensor, ...]]]:
    """Watch the head and its classifiers; the last map is what went into the one that gave `"main"`."""
    num_classes, head = subject.shards.num_classes, subject.trained.model.head
    classifiers = {
        name: module
        for name, module in head.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == num_classes
    }

    def last(calls: Mapping[str, Call]) -> tuple[Tensor, ...]:
        main = calls["the head"].output["main"]
        found = [call.inputs[0] for name, call in calls.items() if name in classifiers and call.output is main]
        if not found:
            what = f"the head of {subject.name}, {subject.head}, does not end in a convolution to the classes"
            raise UsageError(what, "--against", "choose another run")
        return (found[0],)

    return {**classifiers, "the head": head}, last


def _arrays(without: ClassMoments, with_: ClassMoments) -> Arrays:
    arrays: Arrays = {"pixels": with_.pixels.astype(np.int64)}
    for name, moments in (("without", without), ("with", with_)):
        means = np.where(moments.occurring[:, None], moments.means, np.nan)
        arrays |= {f"{name}_variance": moments.variance(), f"{name}_share": moments.share(), f"{name}_means": means}
    return arrays


def _numbers(without: ClassMoments, with_: ClassMoments, subject: Subject, *, paired: bool) -> dict[str, str]:
    numbers = {}
    for what, values in (
        ("variance over the classes' means", [m.variance() for m in (without, with_)]),
        ("their part of the whole variance", [m.share() for m in (without, with_)]),
    ):
        low, high = (float(np.median(each)) for each in values)
        numbers[f"{what}, median of channels"] = f"{low:.4g} without, {high:.4g} with"
        if paired:
            grown = (values[1] > values[0]).mean()
            numbers[f"{what}, larger with"] = f"{grown:.0%} of {len(values[0])} channels"
    absent = [n for n, seen in zip(subject.shards.class_names, with_.occurring, strict=True) if not seen]
    if absent:
        numbers["classes that never occur, left out"] = ", ".join(absent)
    return numbers

"""Accuracy against cost for each combination of views at test time, as the papers' tables have them.

DGCWNet's Table 3, DF-DAM's Tables 3 and 5, DFN's Table 4 and GALD's Table III compare one scale with several (MS),
with and without the mirrored image; GALD's and DGCWNet's look through windows. Here are all of them, on one commit.

All combinations see one image in turn, so their times are ratios that a busy neighbour does not change.
"""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayseg import segmenter
from rayseg.config import RunConfig, ViewConfig
from rayseg.data.reader import ShardSet
from rayseg.errors import DataError, UsageError
from rayseg.metrics import PAPERS, BoundaryScores, ConfusionMatrix
from rayseg.schema import parse
from rayseg.train import evaluate, views
from rayseg.train.inference import Subject, weights_blamed

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""DF-DAM's, where the run itself is tested at one scale."""


class Row(NamedTuple):
    """One combination: its scores, and what an image of the commonest size costs.

    `passes` are forward passes, `gmac` their multiply-adds in 1e9, `time` the seconds over the first row's.
    """

    views: ViewConfig
    miou: float
    boundary_f1: float
    passes: int
    gmac: float
    time: float


def combinations(config: RunConfig, shards: ShardSet, given: Mapping[str, Any]) -> list[ViewConfig]:
    """List whole images, and windows where these are not the whole, each at one scale and several, mirrored or not.

    `given` may have `scales` and `window_px`; without them the run's own test settings are taken, or `SCALES` and
    windows of the size that the run trained on. `window_px` None leaves windows out.

    Raises:
        UsageError: they do not hold.
    """
    own = config.test
    several = given.get("scales") or list(own.scales if len(own.scales) > 1 else SCALES)
    window = given["window_px"] if "window_px" in given else list(own.window_px or config.augment.crop_px)
    stride = {"stride": own.stride} if own.window_px is not None else {}
    if several == [1.0]:
        raise UsageError("scale 1 alone is what several scales are compared with", "--scales", "name others")
    looks: list[dict[str, Any]] = [{}]
    if window is not None and _cuts(parse(ViewConfig, {"scales": several, "window_px": window}, "--tta-table"), shards):
        looks.append({"window_px": window, **stride})
    return [
        parse(ViewConfig, {**look, "scales": scales, "flip": flip}, "--tta-table")
        for look in looks
        for scales in ([1.0], several)
        for flip in (False, True)
    ]


def _cuts(config: ViewConfig, shards: ShardSet) -> bool:
    """Whether any image, at any of the scales, is larger than a window."""
    several = {**dict.fromkeys(config.scales), 1.0: None}
    size = (int(shards.index.height.max(initial=1)), int(shards.index.width.max(initial=1)))
    scaled = [views.scaled(size, scale) for scale in several]
    assert config.window_px is not None
    return any(side > window for one in scaled for side, window in zip(one, config.window_px, strict=True))


def measure(
    seen: Subject, chosen: Sequence[ViewConfig], *, progress: Callable[[int, int], None] | None = None
) -> list[Row]:
    """Predict every image of the split under every combination, and score and time them.

    Raises:
        CheckpointError: the weights give logits that are not finite.
        DataError: the split is empty, or has no labelled pixel.
    """
    shards, (_, model, runtime, precision) = seen.shards, seen.trained
    if not len(shards):
        raise DataError("the split is empty", shards.folder, "evaluate a split that has samples")
    classes, ignored = shards.num_classes, shards.ignore_index
    confusions = [ConfusionMatrix(classes, ignored) for _ in chosen]
    boundaries = [BoundaryScores(classes, ignored, PAPERS[:1]) for _ in chosen]
    took: list[list[float]] = []
    for position, sample in enumerate(shards):
        took.append([])
        for view, confusion, boundary in zip(chosen, confusions, boundaries, strict=True):
            began = time.perf_counter()
            with weights_blamed(seen.commit), evaluate.explained(sample.key, shards.folder):
                mask = evaluate.predict(model, sample.image, runtime.device, precision, view)
            took[-1].append(time.perf_counter() - began)
            confusion.update(mask, sample.mask)
            boundary.update(mask, sample.mask)
        if progress is not None:
            progress(position + 1, len(shards))
    if not confusions[0].counts.any():
        raise DataError("no pixel of the split is labelled", shards.folder, "evaluate a split that has labels")
    times = [statistics.median(each[i] / each[0] for each in took) for i in range(len(chosen))]
    costs = _costs(seen, chosen)
    return [
        Row(view, confusion.miou(), float(boundary.mean()[0]), *cost, spent)
        for view, confusion, boundary, cost, spent in zip(chosen, confusions, boundaries, costs, times, strict=True)
    ]


def common_size(shards: ShardSet) -> tuple[int, int]:
    """Give the size (height, width) that most images have."""
    sizes = zip(shards.index.height.tolist(), shards.index.width.tolist(), strict=True)
    return collections.Counter(sizes).most_common(1)[0][0]


def _costs(seen: Subject, chosen: Sequence[ViewConfig]) -> list[tuple[int, float]]:
    """Count forward passes and multiply-adds for one image of the commonest size; nothing is computed."""
    model = segmenter.skeleton(seen.config.model(seen.shards.num_classes)).eval()
    macs: dict[tuple[int, int], int] = {}
    found = []
    for view in chosen:
        passes = views.passes(common_size(seen.shards), view)
        for size in set(passes) - macs.keys():
            macs[size] = segmenter.describe(model, (3, *size)).macs
        found.append((len(passes), sum(macs[size] for size in passes) / 1e9))
    return found


def lines(rows: Sequence[Row], seen: Subject) -> list[str]:
    """Write the table."""
    height, width = common_size(seen.shards)
    several = next(row.views.scales for row in rows if row.views.scales != (1.0,))
    looks = {None: "whole images"} | {
        row.views.window_px: "windows of {}x{} px".format(*row.views.window_px) for row in rows if row.views.window_px
    }
    head = f"{'':24}{'MS':>4}{'flip':>6}{'mIoU':>9}{'F1 3px':>9}{'passes':>9}{'GMAC':>10}{'time':>8}"
    text = [f"step {seen.commit.step}, split {seen.split}, {len(seen.shards)} images", head]
    for row in rows:
        marks = ["yes" if row.views.scales != (1.0,) else "-", "yes" if row.views.flip else "-"]
        text.append(
            f"{looks[row.views.window_px]:24}{marks[0]:>4}{marks[1]:>6}{row.miou:9.4f}{row.boundary_f1:9.4f}"
            f"{row.passes:>9}{row.gmac:10.2f}{row.time:8.2f}"
        )
    text.append(f"MS: scales {' '.join(f'{scale:g}' for scale in several)}, probabilities averaged; flip: mirrored too")
    text.append(
        f"passes and GMAC: of an image of {height}x{width} px; time: over the first row's, image by image in turn"
    )
    if len(looks) == 1:
        text.append("no windows: none were asked for, or they would hold the whole image at every scale")
    return text


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give the rows in plain types."""
    return [
        {**row.views.model_dump(mode="json"), **{k: v for k, v in row._asdict().items() if k != "views"}}
        for row in rows
    ]

"""A sheet of hard images: a row each of image, truth, prediction and errors, with what was worst in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rayseg.data.card import Card
from rayseg.data.reader import Sample, ShardSet
from rayseg.figures import IGNORED, RIGHT, VOID, WRONG, mask_to_rgb
from rayseg.metrics import ConfusionMatrix
from rayseg.train.paint import PALE, Canvas, Color, length

Pixels = NDArray[np.uint8]
Masks = Mapping[int, Pixels]
"""Predicted masks (H,W) by their position in the split, in the order in which they are shown."""

SHEET, LIST, COMPARED = "hardest.jpg", "hardest.csv", "hardest_best_and_base.jpg"
PANEL_PX, GAP_PX, EDGE_PX, LINE_PX = 240, 4, 12, 20
WORST = 3
"""So many classes of lowest IoU are named beside an image."""
LEGEND = 40
"""So many classes are in the legend at most, those with most pixels on the sheet."""


def draw(folder: Path, shards: ShardSet, masks: Masks, title: str) -> list[Path]:
    """Draw a run's masks as `hardest.jpg`, and list them with their mean IoU in `hardest.csv`; give both."""
    samples = [shards.read(position) for position in masks]
    seen = [_counted(mask, sample, shards) for mask, sample in zip(masks.values(), samples, strict=True)]
    captions = [f"mIoU {each.miou():.3f}    lowest: {_worst(each, shards.class_names)}" for each in seen]
    sheet(folder / SHEET, shards.card, samples, {"": list(masks.values())}, captions=captions, title=title)
    with (folder / LIST).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["position", "key", "miou"])
        for position, sample, each in zip(masks, samples, seen, strict=True):
            table.writerow([position, sample.key, f"{each.miou():.4f}"])
    return [folder / SHEET, folder / LIST]


def listed(folder: Path) -> list[int]:
    """Read which positions a sheet shows; none where there is no sheet."""
    path = folder / LIST
    if not path.exists() or not (folder / SHEET).exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [int(row["position"]) for row in csv.DictReader(file)]


def compare(path: Path, shards: ShardSet, runs: Mapping[str, Masks], title: str) -> None:
    """Draw the same images as several runs, by their names, predict them."""
    positions = list(next(iter(runs.values())))
    samples = [shards.read(position) for position in positions]
    lines = [
        [f"{name} {_counted(masks[p], sample, shards).miou():.3f}" for name, masks in runs.items()]
        for p, sample in zip(positions, samples, strict=True)
    ]
    predicted = {name: [masks[p] for p in positions] for name, masks in runs.items()}
    sheet(path, shards.card, samples, predicted, captions=[f"mIoU: {', '.join(line)}" for line in lines], title=title)


def sheet(
    path: Path,
    card: Card,
    samples: Sequence[Sample],
    predicted: Mapping[str, Sequence[Pixels]],
    *,
    captions: Sequence[str],
    title: str,
) -> None:
    """Draw a row a sample, the panels 240 pixels wide, of at most 2 MiB; `predicted` has masks by whose they are."""
    names = ["image", "truth"]
    for name in predicted:
        names += [f"{name}: {what}" if name else what for what in ("prediction", "errors")]
    width = 2 * EDGE_PX + len(names) * (PANEL_PX + GAP_PX) - GAP_PX
    sizes = [_fitted(*sample.mask.shape) for sample in samples]
    masks = [*(sample.mask for sample in samples), *(mask for each in predicted.values() for mask in each)]
    legend = _legend(card, masks, width - 2 * EDGE_PX)
    top = EDGE_PX + 2 * LINE_PX + LINE_PX * (1 + max(entry.line for entry in legend))
    canvas = Canvas(width, top + sum(height + LINE_PX + GAP_PX for height, _ in sizes) + EDGE_PX)
    canvas.text(EDGE_PX, EDGE_PX + 6, title, size=15)
    for entry in legend:
        y = EDGE_PX + LINE_PX * (1 + entry.line)
        if entry.color is not None:
            canvas.box(EDGE_PX + entry.x, y + 4, 12, 12, entry.color, edge=PALE)
        canvas.text(EDGE_PX + entry.x + 17, y + 10, entry.name)
    for column, name in enumerate(names):
        canvas.text(EDGE_PX + column * (PANEL_PX + GAP_PX) + PANEL_PX // 2, top - 10, name, color=PALE, anchor="mm")
    colors = [spec.color for spec in card.classes]
    for row, (sample, size, caption) in enumerate(zip(samples, sizes, captions, strict=True)):
        canvas.text(EDGE_PX, top + LINE_PX // 2, f"{row + 1}. {_short(sample.key)}    {caption}")
        panels = [_reduced(sample.image, size), _labels(sample.mask, colors, card.ignore_index, size)]
        for each in predicted.values():
            panels.append(_labels(each[row], colors, card.ignore_index, size))
            panels.append(errors(sample.mask, each[row], card.ignore_index, size))
        for column, pixels in enumerate(panels):
            inset = (PANEL_PX - size[1]) // 2
            canvas.place(EDGE_PX + column * (PANEL_PX + GAP_PX) + inset, top + LINE_PX, pixels)
        top += size[0] + LINE_PX + GAP_PX
    canvas.save(path)


def errors(truth: Pixels, predicted: Pixels, ignore_index: int, size: tuple[int, int]) -> Pixels:
    """Show at `size` (height, width) what share of the pixels is wrong (red), right (white) or not counted (grey)."""
    ignored = truth == ignore_index
    wrong = (truth != predicted) & ~ignored
    shares = [_reduced(np.where(each, 255, 0).astype(np.uint8), size)[..., None] / 255.0 for each in (wrong, ignored)]
    right = 1.0 - shares[0] - shares[1]
    mixed = shares[0] * np.array(WRONG) + shares[1] * np.array(IGNORED) + right * np.array(RIGHT)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _fitted(height: int, width: int) -> tuple[int, int]:
    """Fit an image into a panel: its whole width, and at most a quarter higher than wide."""
    scale = min(PANEL_PX / width, 1.25 * PANEL_PX / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduced(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    larger = size[0] > pixels.shape[0]
    return np.asarray(
        cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR if larger else cv2.INTER_AREA), np.uint8
    )


def _labels(mask: Pixels, colors: Sequence[Sequence[int]], ignore_index: int, size: tuple[int, int]) -> Pixels:
    return mask_to_rgb(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), colors, ignore_index)


def _short(key: str) -> str:
    return key if len(key) <= 40 else f"...{key[-37:]}"


def _counted(mask: Pixels, sample: Sample, shards: ShardSet) -> ConfusionMatrix:
    counted = ConfusionMatrix(shards.num_classes, shards.ignore_index)
    counted.update(mask, sample.mask)
    return counted


def _worst(counted: ConfusionMatrix, names: Sequence[str]) -> str:
    """Name the classes of lowest IoU; of equals those with most pixels in the truth."""
    iou, truth = counted.iou(), counted.counts.sum(axis=1)
    there = sorted((i for i in range(len(names)) if truth[i]), key=lambda i: (iou[i], -truth[i]))
    return ", ".join(f"{names[i]} {iou[i]:.2f}" for i in islice(there, WORST))


class _Entry(NamedTuple):
    line: int
    x: int
    name: str
    color: Color | None


def _legend(card: Card, masks: Sequence[Pixels], width: int) -> list[_Entry]:
    """Lay the classes that occur on the sheet out in lines, then what the other colours mean."""
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in masks], axis=0)
    there = [label for label in range(card.num_classes) if counts[label]]
    kept = set(sorted(there, key=lambda label: -counts[label])[:LEGEND])
    named: list[tuple[str, Color | None]] = [(card.classes[i].name, card.classes[i].color) for i in there if i in kept]
    named += [(f"and {len(there) - len(kept)} more", None)] if len(there) > len(kept) else []
    named += [("no label", VOID)] if counts[card.ignore_index] else []
    named += [("right", RIGHT), ("wrong", WRONG)] + ([("not counted", IGNORED)] if counts[card.ignore_index] else [])
    entries, line, x = [], 0, 0
    for name, color in named:
        wide = 17 + length(name) + 16
        if x and x + wide > width:
            line, x = line + 1, 0
        entries.append(_Entry(line, x, name, color))
        x += wide
    return entries

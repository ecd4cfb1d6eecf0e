"""Denoised NL's Figure 11: the attention of one pixel, as it is and denoised twice (https://arxiv.org/abs/2110.14200).

A, A' and A'' are rows of maps that the head never makes (`ops/denoised_attention.py`), computed for the one pixel of F
that holds the point, from the queries, keys and predictions of the forward pass. How much of each row lies on pixels of
the point's own class is what the paper reads from them: "only highlights the pixels belonging to the category".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayseg.analysis.subject import Asked, Result, Subject, View, at_cells, classes, computing, forward, plain
from rayseg.heads.denoised_nl import DenoisedNonLocal
from rayseg.ops.denoised_attention import maps_at

MARKS = {"attention": "A", "rectified": "A'", "retained": "A''"}


def attention_maps(asked: Asked) -> Result:
    """Give the point's rows of A, and of A' and A'' where their blocks are built."""
    subject, (view,) = asked.subject, asked.views
    block = asked.module(DenoisedNonLocal)
    logits, calls = forward(subject, view.image, {"block": block, "query": block.query, "key": block.key})
    q, k = (calls[name].output for name in ("query", "key"))
    _, predictions = (*calls["block"].inputs, None)[:2]
    cell = view.cell((q.shape[2], q.shape[3]))
    with computing(subject):
        rows = maps_at(q, k, cell, classes=predictions, kernel_size=block.kernel_size)
    maps = {name: plain(x)[0] for name, x in rows._asdict().items() if x is not None}
    predicted = classes(logits)
    return Result(view.arrays(predicted) | maps | {"cell": np.array(cell)}, _numbers(maps, view, predicted, subject))


def _numbers(
    maps: dict[str, NDArray[np.float32]], view: View, predicted: NDArray[np.uint8], subject: Subject
) -> dict[str, str]:
    """Say how much of each row lies on the point's class: its label's, or where it has none the predicted one."""
    labels = view.mask if view.mask[view.point] != subject.shards.ignore_index else predicted
    label = labels[view.point]
    own = at_cells(labels, next(iter(maps.values())).shape) == label
    name = subject.shards.class_names[label]
    numbers = {}
    for key, row in maps.items():
        on = float(row[own].sum() / row.sum())
        numbers[MARKS[key]] = f"sums to {row.sum():.3f}, {on:.3f} of it on {name}, largest {row.max():.4f}"
    return numbers | {f"{name} covers": f"{own.mean():.3f} of the map"}

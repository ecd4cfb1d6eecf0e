"""DFN's Figure 6, and the borders of Figure 7: what the Border Network predicts (https://arxiv.org/abs/1804.09337).

The head leaves the Border Network out of inference; here it is run on the features that the head was given. What it
learnt from stands beside it: borders as the run's loss takes them from the labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rayseg import losses
from rayseg.analysis.subject import Asked, Result, Subject, View, classes, computing, forward, plain
from rayseg.borders import BorderTarget, border_targets
from rayseg.heads.dfn import BorderNetwork, Head


def border_prediction(asked: Asked) -> Result:
    """Give every level's probability of a border, at the view's size."""
    subject, (view,) = asked.subject, asked.views
    asked.module(BorderNetwork)
    head = subject.trained.model.head
    assert isinstance(head, Head)
    logits, calls = forward(subject, view.image, {"head": head})
    with computing(subject):
        levels = {name: _probability(x, view) for name, x in head.borders(calls["head"].inputs[0]).items()}
    target = truth(subject, view)
    border, counted = (x[0].numpy() for x in target)
    numbers = {}
    for name, found in levels.items():
        on, off = found[border & counted], found[~border & counted]
        precision = average_precision(found[counted], border[counted])
        means = f"{on.mean():.3f} on borders, {off.mean():.3f} elsewhere" if on.size and off.size else "no border here"
        numbers[name] = f"mean {means}, average precision {precision:.3f}"
    numbers["borders cover"] = f"{border[counted].mean():.3f}: the average precision of a guess"
    return Result(view.arrays(classes(logits)) | levels | {"border_truth": border, "counted": counted}, numbers)


def _probability(logits_B1HW: Tensor, view: View) -> NDArray[np.float32]:
    # Logits are resized before the sigmoid, as the model resizes outputs for the loss.
    resized = functional.interpolate(logits_B1HW.float(), size=view.mask.shape, mode="bilinear", align_corners=False)
    return plain(resized.sigmoid())[0, 0]


def truth(subject: Subject, view: View) -> BorderTarget:
    """Find the borders in the view's labels by the options of the run's loss."""
    shards, model = subject.shards, subject.trained.model
    loss = losses.for_model(
        subject.trained.config.loss, model, ignore_index=shards.ignore_index, num_classes=shards.num_classes
    )
    labels = torch.from_numpy(view.mask.astype(np.int64))[None]
    return border_targets(labels, ignore_index=shards.ignore_index, **loss.target_options)


def average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Give the mean precision at each positive, best score first, equal scores at once; NaN without positives."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, last = np.cumsum(positive[order]), np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / hits[-1])

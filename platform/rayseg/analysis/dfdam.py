"""DF-DAM's Figures 7 and 8: what its two attention modules let through (https://arxiv.org/abs/1911.08149).

The "low-level features" of both figures are those that DAFM fuses, the last stage but one after its 1x1. Figure 8 shows
channels 51, 126 and 11 for their low and high weights; here it is the channel of the lowest weight and the two of the
highest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rayseg.analysis.subject import Arrays, Asked, Result, Subject, View, classes, forward, plain
from rayseg.borders import border_targets
from rayseg.heads.dfdam import DualAttentionFusion, Head, PositionConfidence


def channel_weights(asked: Asked) -> Result:
    """Give DAFM's weights for an image, and for a second one where there is one."""
    dafm, views = asked.module(DualAttentionFusion), asked.views
    arrays: Arrays = {}
    for view in reversed(views):
        logits, calls = forward(asked.subject, view.image, {"high": dafm.high, "low": dafm.low})
        other = "other_" if view is not views[0] else ""
        arrays |= {other + name: plain(calls[name].output).ravel() for name in ("high", "low")}
    high, low = arrays["high"], arrays["low"]
    numbers = {
        "mean weight": f"high level {high.mean():.3f}, low level {low.mean():.3f}",
        "high level weighted more": f"{(high > low).mean():.0%} of {len(high)} channels",
    }
    if len(views) > 1:
        arrays["other_image"] = views[1].image
        numbers[f"mean difference of the low level's to {views[1].key}"] = f"{_apart(low, arrays['other_low']):.4f}"
    return Result(views[0].arrays(classes(logits)) | arrays, numbers)


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


def confidence_map(asked: Asked) -> Result:
    """Give 2DPAM's confidence, the low-level channels, and how DAFM weights them where it is built."""
    subject, (view,) = asked.subject, asked.views
    pam, head = asked.module(PositionConfidence), subject.trained.model.head
    assert isinstance(head, Head)
    modules = {"confidence": pam.confidence, "low_features": head.reduce_low}
    if head.dafm is not None:
        modules["low"] = head.dafm.low
    logits, calls = forward(subject, view.image, modules)
    confidence = plain(calls["confidence"].output)[0, 0]
    arrays = {"confidence": confidence, "low_features": plain(calls["low_features"].output)[0]}
    if "low" in calls:
        arrays["low"] = plain(calls["low"].output).ravel()
    numbers = {"mean confidence": f"{confidence.mean():.3f}", **_beside_borders(confidence, view, subject)}
    if view.point is not None:
        numbers["confidence at the point"] = f"{confidence[view.cell(confidence.shape)]:.3f}"
    return Result(view.arrays(classes(logits)) | arrays, numbers)


def _beside_borders(values_hw: NDArray[np.float32], view: View, subject: Subject) -> dict[str, str]:
    """Compare the map beside borders of classes, a cell wide, with the rest: the paper sees highlights there."""
    width = 2 * (view.mask.shape[0] // (2 * len(values_hw))) + 1
    labels = torch.from_numpy(view.mask.astype(np.int64))[None]
    target = border_targets(labels, ignore_index=subject.shards.ignore_index, width=width)
    whole = torch.nn.functional.interpolate(torch.from_numpy(values_hw)[None, None], size=view.mask.shape)[0]
    beside, rest = (whole[where & target.valid].numpy() for where in (target.border, ~target.border))
    if not (beside.size and rest.size):
        return {}
    return {f"within {width // 2} px of a border, and elsewhere": f"{beside.mean():.3f}, {rest.mean():.3f}"}

"""GALD's Figures 7 and 9: LDv1's mask, and LDv2's local affinity at a point (https://arxiv.org/abs/2107.13154).

The mask is shown as the paper's, the mean of M over channels. The affinity is eq. 8's softmax over the taps of the one
pixel of the map that holds the point: the head never makes that of all pixels at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayseg.analysis.subject import Asked, Pixel, Result, at_cells, classes, computing, forward, plain
from rayseg.heads.gald import LocalDistribution, MaskedDistribution
from rayseg.ops.local_attention import weights_at


def ldv1_mask(asked: Asked) -> Result:
    """Give the mask that LDv1 weighted its context with."""
    subject, (view,) = asked.subject, asked.views
    module = asked.module(MaskedDistribution)
    logits, calls = forward(subject, view.image, {"ld": module})
    with computing(subject):
        mask = plain(module.mask(calls["ld"].inputs[-1]))[0]  # the context; alone, the features
    mean = mask.mean(0)
    numbers = {"mask": f"mean {mean.mean():.3f}, {mean.min():.3f} to {mean.max():.3f} over the image"}
    if view.point is not None:
        row, column = view.cell((mean.shape[0], mean.shape[1]))
        at = mask[:, row, column]
        numbers["at the point"] = f"mean {at.mean():.3f}, {at.min():.3f} to {at.max():.3f} over {len(at)} channels"
    return Result(view.arrays(classes(logits)) | {"mask": mask, "mean": mean}, numbers)


def local_affinity(asked: Asked) -> Result:
    """Give the weights of the taps of the map's pixel that holds the point."""
    (view,) = asked.views
    module = asked.module(LocalDistribution)
    logits, calls = forward(asked.subject, view.image, {"query": module.query, "key": module.key})
    q, k = (calls[name].output for name in ("query", "key"))
    map_size: Pixel = (q.shape[2], q.shape[3])
    cell = view.cell(map_size)
    affinity = plain(weights_at(q, k, cell, kernel_size=module.kernel_size, dilation=module.dilation))[0]
    steps = module.dilation * (np.arange(module.kernel_size) - module.kernel_size // 2)
    taps = np.stack(np.meshgrid(cell[0] + steps, cell[1] + steps, indexing="ij"), -1)
    inside = np.all((taps >= 0) & (taps < map_size), axis=-1)
    arrays = {
        "affinity": affinity,
        "inside": inside,
        "taps_yx": (taps + 0.5) * (np.array(view.mask.shape) / map_size) - 0.5,
        "cell": np.array(cell),
        "map_size": np.array(map_size),
    }
    labels = at_cells(view.mask, map_size)[tuple(np.clip(taps, 0, np.array(map_size) - 1).transpose(2, 0, 1))]
    numbers = {
        "taps": "{}x{}, {} cells apart".format(*affinity.shape, module.dilation) + " of {}x{}".format(*map_size),
        **_numbers(affinity, inside, np.where(inside, labels, asked.subject.shards.ignore_index), asked),
    }
    return Result(view.arrays(classes(logits)) | arrays, numbers)


def _numbers(
    affinity: NDArray[np.float32], inside: NDArray[np.bool_], labels: NDArray[np.uint8], asked: Asked
) -> dict[str, str]:
    """Say how the weights lie: on the pixel itself, on its class (`labels` are the taps'), outside the map."""
    shards, (view,) = asked.subject.shards, asked.views
    middle = affinity[affinity.shape[0] // 2, affinity.shape[1] // 2]
    entropy = -(affinity * np.log(np.maximum(affinity, 1e-30))).sum()
    numbers = {
        "weight": f"its own {middle:.3f}, largest {affinity.max():.3f}, all alike {1 / affinity.size:.3f}",
        "taps that count (exp of the entropy)": f"{np.exp(entropy):.1f} of {affinity.size}",
    }
    if (label := view.mask[view.point]) != shards.ignore_index:
        own = labels == label
        numbers[f"on {shards.class_names[label]}, the point's class"] = f"{affinity[own].sum():.3f}, {own.sum()} taps"
    return numbers | {"on taps outside the map": f"{affinity[~inside].sum():.3f}, {(~inside).sum()} taps"}

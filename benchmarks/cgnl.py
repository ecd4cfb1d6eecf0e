"""Measure CGNL's affinity of all (channel, pixel) pairs: as a matrix, and as the one number it comes to."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from measure import Form, arguments, compare, publish, table
from naive.cgnl import generalised as naive
from rayseg.heads.cgnl import GROUPS, generalised

GROWTH = f"""theta, phi and g of C channels on H x W pixels, in {GROUPS} groups, one image, float32.

* `naive`: the affinity theta phi^T of a group, M x M with M = C / {GROUPS} x H x W, times g: it grows with M^2.
* `rayseg`: a theta with a = phi . g, one number a group: the map itself, once, and 2 M multiply-adds a group.

At GALD's size (C = 256, 48 x 48) the affinities would be {(32 * 48 * 48) ** 2 * 4 * GROUPS / 1e9:.0f} GB."""

FORMS: dict[str, Form] = {
    "naive": functools.partial(naive, groups=GROUPS),
    "rayseg": functools.partial(generalised, groups=GROUPS),
}


def inputs(channels: int, side: int) -> list[Tensor]:
    """Draw theta, phi and g."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, channels, side, side, generator=generator).requires_grad_() for _ in range(3)]


def main() -> None:
    """Compare where the naive form fits: far below the sizes in use."""
    options = arguments(__doc__ or "")
    sections = [GROWTH]
    for channels, side in [(16, 6)] if options.quick else [(64, 6), (256, 6), (128, 12)]:
        for training in (False, True):
            costs = compare(FORMS, inputs(channels, side), training=training, rounds=2 if options.quick else 5)
            what = "forward and backward" if training else "inference"
            sections.append(table(f"C = {channels}, {side} x {side}, {what}", costs))
    publish("cgnl", "Compact generalised non-local", sections, write=options.write)


if __name__ == "__main__":
    main()

"""Measure criss-cross attention: the usual einsum form, and rows and columns as views of one copy."""

from __future__ import annotations

import torch
from torch import Tensor

from measure import Form, arguments, compare, publish, table
from naive.criss_cross import criss_cross as naive
from rayseg.ops.criss_cross import criss_cross

GROWTH = """Maps of D = 64 key and C = 512 value channels, float32. Both compute the same, unscaled.

* `einsum`: rows and columns of the whole batch, queries, keys and values copied for each.
* `rayseg`: `ops/criss_cross.py`, an image at a time, rows and columns as views of one channels-last copy.

Both keep N (H + W) weights an image, never N x N; beside them the einsum form copies maps of the whole batch, so its
peak grows faster with the batch."""

FORMS: dict[str, Form] = {"einsum": naive, "rayseg": criss_cross}


def inputs(batch: int, side: int) -> list[Tensor]:
    """Draw queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, side, side, generator=generator).requires_grad_() for c in (64, 64, 512)]


def main() -> None:
    """Compare at the size of a 769 px crop at stride 8, and at half of it."""
    options = arguments(__doc__ or "")
    sections = [GROWTH]
    for batch, side in [(2, 13)] if options.quick else [(1, 48), (4, 48), (1, 97), (4, 97)]:
        for training in (False, True):
            costs = compare(FORMS, inputs(batch, side), training=training, rounds=2 if options.quick else 5)
            what = "forward and backward" if training else "inference"
            sections.append(table(f"Batch of {batch}, {side} x {side}, {what}", costs))
    publish("criss_cross", "Criss-cross attention", sections, write=options.write)


if __name__ == "__main__":
    main()

"""Measure GALD's local attention: the unfolded form, shifted maps, sub-grids, and what rayseg chooses."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from measure import Form, arguments, compare, publish, table
from naive.local_attention import local_attention as unfolded
from rayseg.ops import local_attention as ops

GROWTH = """N = H x W pixels, D channels of queries and keys, C of values, k x k taps r pixels apart; one image,
float32. All forms compute the same. "rayseg" is `ops/local_attention.py` as it is called: sub-grids where it learns,
taps in inference on the CPU.

| form | numbers alive in inference, beyond inputs | in training | multiply-adds of inference |
|---|---|---|---|
| unfold | k^2 N (D + 2 C) | k^2 N (D + 3 C) | k^2 N (D + C) |
| sub-grids, r > 4 here | N (2 D + 3 C) | 4.5 N (D + C) | N^2 / r^2 (D + C) |
| tiles, r <= 4 here | the same, keys and values times (1 + (k - 1) / 12)^2 | the same | (11 + k)^2 N (D + C) |
| taps | 2 N max(D, C) + 2 k^2 N | - | k^2 N (D + C) |

Sub-grids and tiles multiply more than there are taps, but as matrix products, and neither time nor memory follows k^2.
Taps win in inference because their sums stay in the cache; a backward pass would have to keep or repeat each of them.

`shifted maps` are the taps by plain operations that autograd can go back through; `sub-grids` is rayseg's training form
used for inference. The unfolded form at these sizes is what a first implementation does.
"""
SIZES = ((97, 97, 64, 512), (97, 97, 256, 256))
"""Maps of a 769 px crop at stride 8, with the widths that were tried for GALD v2."""


def shifted_maps(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int) -> Tensor:
    """Add up whole shifted maps by plain operations."""
    edge = dilation * (kernel_size // 2)
    height, width = q.shape[-2:]
    keys, values = (torch.nn.functional.pad(x, (edge, edge, edge, edge)) for x in (k, v))
    steps = range(0, 2 * edge + 1, dilation)
    taps = [(slice(y, y + height), slice(x, x + width)) for y in steps for x in steps]
    logits = torch.stack([(q * keys[:, :, y, x]).sum(1, keepdim=True) for y, x in taps])
    weighted = (w * values[:, :, y, x] for w, (y, x) in zip(logits.softmax(0), taps, strict=True))
    return functools.reduce(torch.add, weighted)


def _sub_grids(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int) -> Tensor:
    return ops._by_sub_grids(q, k, v, kernel_size, dilation)


def forms(kernel_size: int, dilation: int, *, training: bool) -> dict[str, Form]:
    """List what is compared, the reference first."""
    other = {"shifted maps": shifted_maps} if training else {"sub-grids": _sub_grids}
    found = {"unfold": unfolded, "rayseg": ops.local_attention, **other}
    return {name: functools.partial(f, kernel_size=kernel_size, dilation=dilation) for name, f in found.items()}


def operands(height: int, width: int, queries: int, values: int) -> list[Tensor]:
    """Draw q, k and v."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, c, height, width, generator=generator, requires_grad=True) for c in (queries, queries, values)
    ]


def main() -> None:
    """Print the page, keep it if asked."""
    wanted = arguments(__doc__ or "")
    sizes = [(24, 24, 8, 16)] if wanted.quick else SIZES
    windows = [(3, 2)] if wanted.quick else [(5, 6), (3, 1), (7, 1)]
    sections = [GROWTH]
    for size in sizes:
        for kernel_size, dilation in windows:
            for training in (False, True):
                rounds = 2 if wanted.quick else 3 if training else 5
                costs = compare(
                    forms(kernel_size, dilation, training=training), operands(*size), training=training, rounds=rounds
                )
                height, width, queries, values = size
                what = f"{height} x {width}, k {kernel_size}, r {dilation}, d {queries}, C {values}"
                sections.append(table(f"{what}, {'forward and backward' if training else 'inference'}", costs))
    publish("local_attention", "Dilated local attention (GALD v2)", sections, write=wanted.write)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

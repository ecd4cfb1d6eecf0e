"""Measure GALD's local attention: the unfolded form, shifted maps, sub-grids, and rayseg's taps in bands."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from measure import Form, arguments, compare, publish, table
from naive.local_attention import local_attention as unfolded
from rayseg.ops.local_attention import by_sub_grids, local_attention

GROWTH = """N = H x W pixels, D channels of queries and keys, C of values, k x k taps r pixels apart; one image,
float32. All forms compute the same. "rayseg" is `ops/local_attention.py` as it is called on the CPU: taps one by one,
in bands of rows; "sub-grids" is what it does on CUDA and in compiled graphs; "shifted maps" are the taps by plain
operations on whole maps, which autograd goes back through; "unfold" copies the window of every pixel.

| form | numbers alive in inference, beyond inputs | in training | multiply-adds of inference |
|---|---|---|---|
| unfold | k^2 N (D + 2 C) | k^2 N (D + 3 C) | k^2 N (D + C) |
| rayseg | 2 N max(D, C) + 2 k^2 N | N max(2 C, 4 D + C) + 3 k^2 N | k^2 N (D + C) |
| sub-grids, H / r <= 20 | N (2 D + 3 C) | 4.5 N (D + C) | N^2 / r^2 (D + C) |
| sub-grids, tiled above | the same, keys and values times (1 + (k - 1) / 12)^2 | the same | (11 + k)^2 N (D + C) |

Neither time nor memory of the sub-grids follows k^2, so they come near at k = 7; they multiply more than there are
taps, but in few large products. On maps of a few hundred pixels and few channels (the last size) a call costs more than
what it computes, and 49 taps are 300 calls.
"""
SIZES = ((97, 97, 64, 512), (97, 97, 256, 256), (24, 32, 32, 32))
"""Maps of a 769 px crop at stride 8, with the widths that were tried for GALD v2; and a small one."""


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


FORMS: dict[str, Form] = {
    "unfold": unfolded,
    "rayseg": local_attention,
    "sub-grids": by_sub_grids,
    "shifted maps": shifted_maps,
}


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
    for size, (kernel_size, dilation), training in itertools.product(sizes, windows, (False, True)):
        forms = {n: functools.partial(f, kernel_size=kernel_size, dilation=dilation) for n, f in FORMS.items()}
        costs = compare(forms, operands(*size), training=training, rounds=2 if wanted.quick else 5)
        height, width, queries, values = size
        what = f"{height} x {width}, k {kernel_size}, r {dilation}, D {queries}, C {values}"
        sections.append(table(f"{what}, {'forward and backward' if training else 'inference'}", costs))
    publish("local_attention", "Dilated local attention (GALD v2)", sections, write=wanted.write)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

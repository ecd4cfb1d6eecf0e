"""Measure distance guided channel weighting (DGCWNet): the written-down form, checkpointed chunks, rayseg's."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from measure import Form, arguments, compare, publish, table
from naive.channel_weighting import dgcw as naive
from rayseg.ops.channel_weighting import EPS, dgcw

CHUNKS = (8, 10, 12, 14)

GROWTH = """N pixels, C channels, one image, float32; "rayseg" is `ops/channel_weighting.py` with its defaults. All
forms compute the same sum over all pairs with the same two 1x1 convolutions.

| form | alive at the peak, beyond inputs | multiply-adds of inference | of a training step |
|---|---|---|---|
| naive | 4 N^2 C numbers, in training 7 | 2 N^2 C^2 | 6 N^2 C^2 |
| checkpoint | chunks of 16 N C, as many as naive has of N^2 C | N^2 C^2 | 4 N^2 C^2 |
| rayseg | 2 or 3 chunks of 1 MiB, or of N C where that is more, and some maps of N C | N^2 C^2 | 4 N^2 C^2 |

So memory grows with N C instead of N^2 C; time grows with N^2 C^2 in every form. At N = 2048, C = 128 one N^2 C tensor
is 2 GiB, and the naive form is left out: the checkpointed form is what is compared with there. DGCWNet has N = 625 in a
crop of 769 px (a stride of 8, downsampled by 4) and N = 2048 in a whole image of Cityscapes."""


def checkpointed(
    q: Tensor, k: Tensor, v: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, rows: int = 16
) -> Tensor:
    """Compute DBS in chunks of `rows` pixels by plain operations, anew in the backward pass."""
    q_BNC, k_BNC, v_BNC = (x.flatten(2).transpose(1, 2) for x in (q, k, v))

    def chunk(q_BbC: Tensor, v_BbC: Tensor) -> Tensor:
        m = (q_BbC[:, :, None] - k_BNC[:, None]).square()
        s = m.sum(-1, keepdim=True) + EPS
        u = ((m * v_BbC[:, :, None]) @ w1.T + s * b1).relu()
        return (s.reciprocal().mT @ u).squeeze(2)

    spans = [slice(i, i + rows) for i in range(0, q_BNC.shape[1], rows)]
    sums = [checkpoint(chunk, q_BNC[:, i], v_BNC[:, i], use_reentrant=False) for i in spans]
    y = torch.cat(sums, 1) @ w2.T + q_BNC.shape[1] * b2
    return y.transpose(1, 2).reshape(q.shape[0], -1, *q.shape[2:])


def operands(channels: int, height: int, width: int, *, batch: int = 1) -> list[Tensor]:
    """Draw q, k, v and the two convolutions."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(batch, channels, height, width, generator=generator) for _ in range(3)]
    shapes = [(channels, channels), (channels,)] * 2
    return [x.requires_grad_() for x in (*maps, *(torch.randn(s, generator=generator) for s in shapes))]


def forms(pixels: int) -> dict[str, Form]:
    """List what is compared, the reference first: chunk sizes at the paper's N, the naive form where it fits."""
    found: dict[str, Form] = {"naive": naive} if pixels < 1000 else {}
    found |= {"checkpoint per 16 pixels": checkpointed, "rayseg": dgcw}
    if pixels == 625:
        found |= {f"rayseg, chunks of {2**n} KiB": functools.partial(dgcw, chunk_bytes=2 ** (10 + n)) for n in CHUNKS}
    return found


def main() -> None:
    """Print the page, keep it if asked."""
    wanted = arguments(__doc__ or "")
    sizes = [(8, 8), (9, 7)] if wanted.quick else [(16, 16), (25, 25), (32, 64)]
    sections = [GROWTH]
    for height, width in sizes:
        pixels = height * width
        rounds = 2 if wanted.quick or pixels > 1000 else 5
        for training in (False, True):
            costs = compare(forms(pixels), operands(128, height, width), training=training, rounds=rounds)
            phase = "forward and backward" if training else "inference"
            sections.append(table(f"DBS, N = {height} x {width} = {pixels}, C = 128, {phase}", costs))
    publish("channel_weighting", "Distance guided channel weighting (DGCWNet)", sections, write=wanted.write)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Measure attention of all pixels with values wider than keys: plain, torch's kernels, checkpoints, rayseg's chunks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from measure import Form, arguments, compare, publish, table
from naive.attention import attention as plain
from rayseg.ops.attention import MIN_CHUNK, attention, fused_attention

GROWTH = f"""N pixels, keys of D and values of C channels, one image, float32. All forms compute the same, unscaled.

* `plain`: `softmax(q^T k)` as a map of N x N, two of them in inference, three in training.
* `SDPA`: `scaled_dot_product_attention` as it comes. With keys and values of different widths it is the plain form.
* `SDPA, keys padded`: queries and keys padded with zeros to C channels, so that the fused CPU kernel takes them:
  no N x N, but 2 C instead of C + D multiply-adds a pair.
* `SDPA, values as heads`: values cut into C / D heads that share queries and keys: 2 C multiply-adds again.
* `checkpoints`: {MIN_CHUNK} queries at a time, computed anew in the backward pass by `torch.utils.checkpoint`.
* `rayseg`: `ops/attention.py`, what runs on the CPU: {MIN_CHUNK} pixels at a time, more on small maps, and up to
  N = 512 the plain form, which is as lean there. Alive are a few maps of N x C and two chunks of {MIN_CHUNK} x N;
  multiply-adds a pair are C + D in inference as in the plain form, and in training D more than its 3 (C + D)."""


def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Widen queries and keys to the values' channels with zeros."""
    more = (0, 0, 0, v.shape[1] - q.shape[1])
    return fused_attention(functional.pad(q, more), functional.pad(k, more), v)


def as_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Cut values into heads of the keys' width, with the same queries and keys."""
    B, D, N = q.shape
    heads = v.shape[1] // D
    q, k = (x.transpose(1, 2).unsqueeze(1).contiguous().expand(-1, heads, -1, -1) for x in (q, k))
    values = v.view(B, heads, D, N).transpose(2, 3).contiguous()
    return functional.scaled_dot_product_attention(q, k, values, scale=1.0).transpose(2, 3).reshape(v.shape)


def checkpointed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run the plain form on chunks of queries, anew in the backward pass."""
    return torch.cat([checkpoint(plain, part, k, v, use_reentrant=False) for part in q.split(MIN_CHUNK, 2)], 2)


FORMS: dict[str, Form] = {
    "plain": plain,
    "SDPA": fused_attention,
    "SDPA, keys padded": padded,
    "SDPA, values as heads": as_heads,
    "checkpoints": checkpointed,
    "rayseg": attention,
}


def inputs(pixels: int, keys: int, values: int) -> list[Tensor]:
    """Draw q, k, v whose logits have a variance of about 1."""
    generator = torch.Generator().manual_seed(0)
    scales = [(keys, keys**-0.25), (keys, keys**-0.25), (values, 1.0)]
    return [(s * torch.randn(1, c, pixels, generator=generator)).requires_grad_() for c, s in scales]


def main() -> None:
    """Compare at NL's sizes: 25 x 25 (NL-D), 48 x 48 (Denoised NL), 97 x 97 (a crop of 769 px at stride 8)."""
    options = arguments(__doc__ or "")
    sizes = [(625, 16, 128, 2)] if options.quick else [(625, 16, 128, 9), (2304, 64, 512, 7), (9409, 64, 512, 3)]
    sections = [GROWTH]
    for pixels, keys, values, rounds in sizes:
        for training in (False, True):
            costs = compare(FORMS, inputs(pixels, keys, values), training=training, rounds=rounds)
            what = "forward and backward" if training else "inference"
            sections.append(table(f"N = {pixels}, D = {keys}, C = {values}, {what}", costs))
    publish("attention", "Attention of all pixels", sections, write=options.write)


if __name__ == "__main__":
    main()

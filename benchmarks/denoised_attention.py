"""Measure denoised attention (Denoised NL's GR and LR): as the paper writes it, with folded values, rayseg's."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from measure import Form, arguments, compare, publish, table
from naive.denoised_attention import denoised_attention as naive
from rayseg.ops.attention import MIN_CHUNK
from rayseg.ops.denoised_attention import denoised_attention

GROWTH = f"""N = H x W pixels, keys of 64, values of 512 channels, 19 classes, a window of k x k, one image, float32;
GR and LR both.

* `naive`: the map of N x N pairs, and k x k copies of it, twice: it grows with k^2 N^2.
* `folded values`: the rewrite of LR alone, V~ = fold(S V), by torch's unfold and fold: k^2 copies of the values and
  three maps of N x N.
* `rayseg`: `ops/denoised_attention.py`. V~ by shifted sums, then chunks of {MIN_CHUNK} pixels: a few maps of N x C
  and a few chunks of {MIN_CHUNK} x N are alive, whatever k is. Multiply-adds are those of non-local attention plus
  k^2 N C for V~, where the naive form spends k^2 N^2 on smoothing.

Table V of the paper has 428 M for the block at N = 2304; the naive form's peak agrees. At 1024 x 2048 px (N = 8192)
the naive form would need more than 5 GB and is left out; there the folded values are compared with."""


def folded(q: Tensor, k: Tensor, v: Tensor, classes: Tensor, *, kernel_size: int) -> Tensor:
    """Fold weighted copies of the values onto their neighbours, then attend by whole maps of pairs."""
    B, D, H, W = q.shape
    window = {"kernel_size": kernel_size, "padding": kernel_size // 2}
    neighbours = functional.unfold(k, **window).view(B, D, -1, H * W)
    inside = functional.unfold(torch.ones_like(k[:, :1]), **window).view(B, 1, -1, H * W)
    weights = (q.view(B, D, 1, H * W) * neighbours).sum(1, keepdim=True).sigmoid() * inside
    copies = (weights * v.view(B, -1, 1, H * W)).flatten(1, 2)
    values = functional.fold(copies, (H, W), **window)
    return naive(q, k, values, classes=classes)


def forms(pixels: int, kernel_size: int) -> dict[str, Form]:
    """List what is compared, the reference first: the naive form where it fits."""
    every: dict[str, Form] = {"naive": _classes_by_name(naive), "folded values": folded}
    every["rayseg"] = _classes_by_name(denoised_attention)
    fitting = {name: form for name, form in every.items() if name != "naive" or pixels < 4000}
    return {name: functools.partial(form, kernel_size=kernel_size) for name, form in fitting.items()}


def _classes_by_name(form: Form) -> Form:
    return lambda q, k, v, classes, **window: form(q, k, v, classes=classes, **window)


def inputs(height: int, width: int) -> list[Tensor]:
    """Draw q, k, v whose logits have a variance of about 1, and class predictions."""
    generator = torch.Generator().manual_seed(0)
    scales = [(64, 64**-0.25), (64, 64**-0.25), (512, 1.0), (19, 1.0)]
    maps = [s * torch.randn(1, c, height, width, generator=generator) for c, s in scales]
    return [*(x.requires_grad_() for x in maps[:3]), maps[3].softmax(1).requires_grad_()]


def main() -> None:
    """Compare at small maps, at the paper's 48 x 48 (a crop of 768 px) and at a whole image's 64 x 128."""
    options = arguments(__doc__ or "")
    sizes = [(12, 13, 3, 15), (25, 25, 3, 9), (48, 48, 3, 5), (48, 48, 5, 3), (64, 128, 3, 3)]
    sections = [GROWTH]
    for height, width, kernel_size, rounds in [(12, 13, 3, 2)] if options.quick else sizes:
        for training in (False, True):
            operands = inputs(height, width)
            costs = compare(forms(height * width, kernel_size), operands, training=training, rounds=rounds)
            what = "forward and backward" if training else "inference"
            sections.append(table(f"{height} x {width}, k = {kernel_size}, {what}", costs))
    publish("denoised_attention", "Denoised attention", sections, write=options.write)


if __name__ == "__main__":
    main()

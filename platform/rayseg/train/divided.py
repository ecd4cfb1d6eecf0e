"""The gradients of a batch that is computed in micro-batches: to rounding those of the batch undivided.

A mean over pixels is the sum of its parts' shares, once each is divided by the whole batch's pixels, on all ranks:
forward and backward go part by part. OHEM, Dice and Lovász need every pixel's score at once: there a first pass without
a graph computes all logits, the loss of the whole batch gives their gradients, and a second pass part by part takes
these back to the weights. That costs a second forward pass, and memory for the logits of the whole batch.

What is undivided all the same: batch norm's statistics are those of each part, and its running ones move once a part.
Dropout draws anew for each part. With group norm and without dropout the gradients agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayseg.losses import SegmentationLoss
from rayseg.train.buffers import Buffers

Outputs = dict[str, Tensor]


class Work(NamedTuple):
    """One rank's part of a batch on its device, and what it is computed with.

    `seed(part)` seeds what micro-batch `part` draws; `scale` multiplies a loss before its backward pass.
    """

    images: Tensor
    target: Tensor
    seed: Callable[[int], None]
    scale: Callable[[Tensor], Tensor]
    precision: torch.dtype

    def outputs(self, net: nn.Module, images: Tensor, part: int) -> Outputs:
        """Compute the logits of micro-batch `part`."""
        self.seed(part)
        with torch.autocast(images.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            found: Outputs = net(images)
        return found


def backward(net: nn.Module, criterion: SegmentationLoss, work: Work, divided: int) -> Outputs:
    """Add the gradients of the batch's loss to the parameters', and give its losses; every rank calls it alike.

    DistributedDataParallel reduces them with the last of `divided` micro-batches.
    """
    if divided > 1 and not criterion.divisible:
        return _through_logits(net, criterion, work, divided)
    counts = criterion.counts(work.target) if divided > 1 else None
    total: Outputs = {}
    for part, images, target in _parts(work, divided):
        with _reduced(net, last=part == divided - 1):
            losses = criterion(work.outputs(net, images, part), target, counts)
            work.scale(losses["loss"]).backward()
        total = {n: value.detach() + total[n] if n in total else value.detach() for n, value in losses.items()}
    return total


def _through_logits(net: nn.Module, criterion: SegmentationLoss, work: Work, divided: int) -> Outputs:
    logits = _all_logits(net, work, divided)
    losses: Outputs = criterion(logits, work.target)
    work.scale(losses["loss"]).backward()
    gradients = {name: leaf.grad for name, leaf in logits.items()}
    del logits
    at = 0
    for part, images, _ in _parts(work, divided):
        with _reduced(net, last=part == divided - 1):
            outputs = work.outputs(net, images, part)
            own = [gradients[name][at : at + len(images)] for name in outputs]  # type: ignore[index]
            torch.autograd.backward(list(outputs.values()), own)
        at += len(images)
    return {name: value.detach() for name, value in losses.items()}


def _all_logits(net: nn.Module, work: Work, divided: int) -> Outputs:
    """Compute the whole batch's logits as leaves of a new graph; running statistics are as before."""
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    before = Buffers(inner)
    with torch.no_grad():
        found = [work.outputs(inner, images, part) for part, images, _ in _parts(work, divided)]
    before.restore()
    return {name: torch.cat([outputs[name] for outputs in found]).requires_grad_() for name in found[0]}


def _parts(work: Work, divided: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    pairs = zip(work.images.tensor_split(divided), work.target.tensor_split(divided), strict=True)
    return ((part, images, target) for part, (images, target) in enumerate(pairs))


def _reduced(net: nn.Module, *, last: bool) -> nullcontext[None]:
    if last or not isinstance(net, DistributedDataParallel):
        return nullcontext()
    return net.no_sync()  # type: ignore[return-value]

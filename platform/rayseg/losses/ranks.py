"""Sums, means and ranks of values over all training processes: what the losses of the global batch are made of.

Only while gradients are recorded and several ranks train does one wait for the others; then all must call together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

_ALONE = ContextVar("_ALONE", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Let this rank compute by itself for a while, as if there were no others: it waits for none."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world_size() -> int:
    """Count the ranks that share this computation: 1 without gradients, where each evaluates alone."""
    distributed = dist.is_available() and dist.is_initialized() and torch.is_grad_enabled() and not _ALONE.get()
    return dist.get_world_size() if distributed else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add up all ranks' tensors, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def global_sums(own: Tensor) -> Tensor:
    """Add up all ranks' values, the same on every rank.

    The gradient of what follows is `world` times this rank's share: the mean over ranks is that of the global sums.
    """
    world = world_size()
    if world == 1:
        return own
    total = sum_over_ranks(own.detach().to(torch.float64, copy=True))
    return total.to(own.dtype) + world * (own - own.detach())


def global_mean(values: Tensor, count: Tensor) -> Tensor:
    """Divide the sum of all ranks' values by the sum of their counts (or weights), 0 where that is 0.

    The same value on every rank. Its gradient is `world` times this rank's share, so that the mean over ranks is the
    gradient of the global mean.
    """
    share = values.sum()
    world = world_size()
    if world == 1:
        return share / or_one(count)
    sums = sum_over_ranks(torch.stack([share.detach().double(), count.double()]))
    divisor = or_one(sums[1])
    mean = (sums[0] / divisor).to(share.dtype)
    own = share * world / divisor.to(share.dtype)
    return mean + (own - own.detach())


def or_one(divisor: Tensor) -> Tensor:
    """Replace 0 by 1: what is divided by it is 0 then."""
    return torch.where(divisor > 0, divisor, 1)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Find the k-th largest of all ranks' values, -inf where there are fewer."""
    padded = functional.pad(values, (0, max(k - values.numel(), 0)), value=-math.inf)
    if world_size() > 1:  # the k largest of all are among each rank's k largest
        padded = gathered(padded.topk(k).values)
    return padded.kthvalue(padded.numel() - k + 1).values


def gathered(values_N: Tensor) -> Tensor:
    """Join all ranks' values, as many of each, in the order of the ranks."""
    world = world_size()
    if world == 1:
        return values_N
    parts = [torch.empty_like(values_N) for _ in range(world)]
    dist.all_gather(parts, values_N)
    return torch.cat(parts)


def largest_length(length: int, device: torch.device) -> int:
    """Find the largest of all ranks' lengths."""
    if world_size() == 1:
        return length
    found = torch.tensor(length, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)

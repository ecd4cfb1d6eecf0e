"""Memory that is short: which errors say so, and how many micro-batches fit when several ranks have to agree.

A rank that fails in the middle of a step leaves the others waiting for it: in the reduction of gradients, in
synchronised batch norm, in the loss. None of these can be taken part in without computing, so nothing can be voted on
from there. Therefore several ranks try before their first update whether their part of it fits, each by itself and
without waiting for any other: forward, loss and backward, stand-ins for the optimizer's state allocated. Then all
agree on the most micro-batches that any of them needs. Crops are of one size, so later steps need what the first one
did; where memory is short all the same, the rank raises, and the run goes on from its newest commit when it is started
again. One rank alone halves in the step in which memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import SyncBatchNorm

from rayseg.losses.ranks import alone
from rayseg.ops.rank_norm import RankBatchNorm

_SAID = ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")
"""What torch's allocator of host memory, the driver, cuBLAS and cuDNN say, with no type of their own."""
_NEVER = 1 << 62


def is_shortage(error: BaseException) -> bool:
    """Whether memory was short, and not something else wrong."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID)


def as_out_of_memory(error: BaseException) -> torch.OutOfMemoryError:
    """Give the error under torch's own type, whoever ran short."""
    return error if isinstance(error, torch.OutOfMemoryError) else torch.OutOfMemoryError(str(error))


def smallest(attempt: Callable[[int], None], divided: int, most: int) -> tuple[int, str]:
    """Find by trying how many micro-batches fit: `divided`, or twice as many, and so on up to `most`.

    Gives also what was said when memory was short, or "".

    Raises:
        torch.OutOfMemoryError: `most` of them do not fit either.
    """
    said = ""
    while True:
        failed: BaseException | None = None
        try:
            attempt(divided)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if divided >= most:
                failed = as_out_of_memory(error)
        else:
            return divided, said
        # Only here, after the handler, is the failed step's memory free: the error held its frames.
        if failed is not None:
            raise failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        divided = min(2 * divided, most)


def agree(divided: int | None, device: torch.device) -> int | None:
    """Give every rank the largest number that any of them needs, None where one of them cannot at all."""
    needed = torch.tensor(_NEVER if divided is None else divided, dtype=torch.int64, device=device)
    dist.all_reduce(needed, op=dist.ReduceOp.MAX)
    return None if int(needed) == _NEVER else int(needed)


@contextmanager
def by_itself(model: nn.Module) -> Iterator[None]:
    """Let this rank compute losses and norms without the others; synchronised norms then use running statistics."""
    norms = [m for m in model.modules() if isinstance(m, SyncBatchNorm | RankBatchNorm) and m.training]
    for norm in norms:
        norm.training = False
    try:
        with alone():
            yield
    finally:
        for norm in norms:
            norm.training = True

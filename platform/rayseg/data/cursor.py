"""The cursor: where a run stands in its stream of samples, and which stream that is. One small JSON.

The step says it all, for the plan is a pure function of it; the rest tells a resume that it would go on with another
stream: with other samples, another seed or another batch, an epoch would no longer hold each sample once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from rayseg.data.index import Index
from rayseg.data.plan import Plan
from rayseg.errors import CheckpointError, UsageError
from rayseg.schema import Value, parse, to_dict

Count = Annotated[int, Field(ge=0)]


class Cursor(Value):
    """`step` batches of the stream were used: `epoch` whole epochs, and `offset` samples of the next."""

    step: Count
    epoch: Count
    offset: Count
    samples: Count
    global_batch: Count
    seed: Count
    mixed_shards: Count
    data: str
    """Hash of the samples, in their order: keys, what each one's image and mask are, and what `digest` says."""


def at(plan: Plan, step: int, data: str) -> Cursor:
    """Say where the stream of the samples whose `digest` is `data` stands before `step`."""
    epoch, offset = _reached(step, plan.global_batch, plan.samples)
    same = {name: getattr(plan, name) for name in ("samples", "global_batch", "seed", "mixed_shards")}
    return Cursor(step=step, epoch=epoch, offset=offset, data=data, **same)


def moved(saved: Mapping[str, Any], step: int, global_batch: int, seed: int) -> dict[str, Any]:
    """Place a saved cursor before `step` of the stream of another batch or seed, over the same samples."""
    epoch, offset = _reached(step, global_batch, saved["samples"])
    return {**saved, "epoch": epoch, "offset": offset, "global_batch": global_batch, "seed": seed}


def _reached(step: int, global_batch: int, samples: int) -> tuple[int, int]:
    return divmod(step * global_batch, samples)


def digest(index: Index, shard_lengths: tuple[int, ...] = ()) -> str:
    """Hash the samples to 16 hex digits (a million: 0.2 s).

    How they lie in shards counts where the order goes by it, and `shard_lengths` is given for that alone.
    """
    total = hashlib.sha256("\0".join(index.key).encode())
    total.update(index.sha256.tobytes())
    total.update("".join(f" {length}" for length in shard_lengths).encode())
    return total.hexdigest()[:16]


_FIXES = {
    "data": "give it the shards that it was trained on",
    "samples": "give it the shards that it was trained on",
    "mixed_shards": "set data.mixed_shards as it was",
    "seed": "give it the same seed",
    "global_batch": "give it the same train.batch",
}


def refuse_another(saved: Mapping[str, Any], here: Cursor, where: object) -> None:
    """Refuse to go on from a saved cursor in another stream.

    Raises:
        CheckpointError: not a cursor, or the samples, the seed, the batch or the order are others; it says which.
    """
    try:
        there = parse(Cursor, saved, where)
    except UsageError as error:
        raise CheckpointError(f"not a cursor: {error.what}", where, "use another commit of the run") from None
    old, new = to_dict(there), to_dict(here)
    for name, fix in _FIXES.items():
        if old[name] != new[name]:
            what = f"the run's stream of samples has {name} = {old[name]}, this one {new[name]}"
            raise CheckpointError(what, where, f"{fix}, or choose another run directory")
    if (there.step, there.epoch, there.offset) != (here.step, here.epoch, here.offset):
        raise CheckpointError(f"the cursor stands at step {there.step}", where, "use another commit of the run")

"""A run's batches: from its config to a loader that records what it gives, the cursor of each commit, the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from rayseg import config as configs
from rayseg.config import RunConfig
from rayseg.data import cursor, decoded, ledger, plan
from rayseg.data.augment import Augmentation
from rayseg.data.ledger import Audit, Ledger
from rayseg.data.loader import Batch, BatchLoader
from rayseg.data.reader import ShardSet, open_shards
from rayseg.data.tolerance import Tolerance
from rayseg.errors import CheckpointError, DataError
from rayseg.schema import to_dict
from rayseg.train import commit
from rayseg.train.commit import Commit
from rayseg.train.runtime import Runtime, from_chief, sum_over_ranks

Show = Callable[[str], None]


class Feed:
    """Gives one rank's batches; what it gave is in the run's record before the step is taken."""

    def __init__(self, config: RunConfig, runtime: Runtime, shards: ShardSet) -> None:
        """Name the stream of samples; nothing is read yet.

        Raises:
            UsageError: the batch does not split over the workers, or the cache is too small for the order.
        """
        shards, mixed = shards.part(config.data.share), config.data.mixed_shards
        shards.check_order(mixed)
        self.plan = plan.make(
            len(shards),
            config.train.batch,
            config.seed,
            rank=runtime.rank,
            world=runtime.world,
            mixed_shards=mixed,
            shard_lengths=shards.shard_lengths() if mixed else (),
        )
        self._config, self._runtime, self._shards = config, runtime, shards
        self._digest = cursor.digest(shards.index, self.plan.shard_lengths)

    def state(self, step: int) -> dict[str, Any]:
        """Give what a commit of `step` updates says of the run's config and of its place in the stream."""
        return {"config": to_dict(self._config), "cursor": to_dict(cursor.at(self.plan, step, self._digest))}

    def refuse_another(self, found: Commit) -> None:
        """Refuse to go on from a commit of another stream of samples.

        Raises:
            CheckpointError: the samples, the batch, the seed or the order are others.
        """
        if "cursor" in found.state:  # commits of version 0.1.0 have none
            cursor.refuse_another(found.state["cursor"], cursor.at(self.plan, found.step, self._digest), found.path)

    @contextmanager
    def begin(self, step: int, show: Show) -> Iterator[Self]:
        """Start making the batches from `step` on; every rank calls it."""
        config, runtime, shards = self._config, self._runtime, self._shards
        data, threads = config.data, config.data.loader_threads
        folder = data.decoded_cache
        samples = decoded.open_decoded(shards, folder, threads=threads, say=show) if folder else shards
        tolerance = Tolerance(shards.index, config.seed, show) if data.bad_shard == "skip" else None
        attempt = from_chief(ledger.next_attempt(runtime.run_dir) if runtime.rank == 0 else 0, runtime.device)
        with (
            Ledger(runtime.run_dir, attempt=attempt, rank=runtime.rank, world=runtime.world) as self._ledger,
            BatchLoader(
                samples,
                self.plan,
                start_step=step,
                end_step=config.train.steps,
                transform=Augmentation(config.augment, shards.index.class_pixels, shards.ignore_index),
                tolerance=tolerance,
                threads=threads,
            ) as self._loader,
        ):
            yield self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = next(self._loader)
        self._ledger.write(batch)
        return batch

    def skipped(self) -> dict[str, float]:
        """Count the samples that any rank could not read, where the run skips them; every rank calls it.

        Raises:
            DataError: they are too many.
        """
        if (tolerance := self._loader.tolerance) is None:
            return {}
        lost = torch.zeros(len(self._shards), dtype=torch.int32)
        lost[list(tolerance.lost)] = 1
        found = sum_over_ranks(lost.to(self._runtime.device)).nonzero()[:, 0].tolist()
        tolerance.learn(found)
        return {"skipped_samples": float(len(found))}


def audit(run_dir: Path, show: Show) -> Audit:
    """Count from a run's record how often each epoch used each sample of the split, and say it in a line.

    Raises:
        CheckpointError: no run, or no whole record.
        DataError: a sample is missing from an epoch, or is in it twice; the first is named.
    """
    if (found := commit.newest(run_dir, warn=show)) is None:
        raise CheckpointError("no commit in it", run_dir, "name the directory of a run")
    data = configs.from_dict(found.state["config"], found.path).data
    shards = open_shards(data.shards, data.train_split, data.remote, bad_shard=data.bad_shard).part(data.share)
    said = ledger.audit(run_dir, shards.index.key)
    show(f"{run_dir}: {said}")
    for epoch, key in [*said.lost, *said.repeated][:1]:
        what = f"epoch {epoch} {'lacks' if said.lost else 'repeats'} sample '{key}'"
        raise DataError(
            what, run_dir / ledger.FOLDER, "see which samples were skipped, and that the shards are the run's"
        )
    return said

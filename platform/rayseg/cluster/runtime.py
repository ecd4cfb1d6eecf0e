"""The two runtimes on Ray: a worker of Ray Train, and a one-worker trial inside its Tune actor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from rayseg.train.runtime import Stop


class RayTrainRuntime:
    """One DDP worker of Ray Train. The torch process group exists already; a report is a barrier of all ranks."""

    def __init__(self, run_dir: Path) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.run_dir = run_dir

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand the figures to the controller."""
        import ray.train

        ray.train.report(dict(metrics))

    def stop(self) -> Stop | None:
        """Go on: the controller ends workers from outside."""
        return None


class TuneRuntime:
    """A trial that is alone in its Tune actor. Tune stops it by raising in `report`; the loop then ends in order."""

    rank, world = 0, 1

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._wanted: Stop | None = None

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand the figures to Tune, and learn whether the scheduler gave the trial up."""
        from ray import tune

        try:
            tune.report(dict(metrics))
        except SystemExit:
            self._wanted = "end"

    def stop(self) -> Stop | None:
        """Answer what the last report came back with."""
        return self._wanted

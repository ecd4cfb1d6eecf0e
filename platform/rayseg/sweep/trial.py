"""A sweep's trials: every trial is a whole RunConfig, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rayseg import config as configs
from rayseg import losses, segmenter
from rayseg.errors import UsageError
from rayseg.sweep.origin import Base, Trial, base_of, describe, labels, probes, short
from rayseg.sweep.preset import ALGORITHMS, Algorithm, Preset, Sweep, unread
from rayseg.sweep.space import Dimension, draw, grid

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Base",
    "Built",
    "Preset",
    "Sweep",
    "Trial",
    "base_of",
    "built",
    "describe",
    "labels",
    "probes",
    "short",
    "trials",
    "unread",
]


def trials(
    preset: Preset,
    *,
    algorithm: Algorithm,
    count: int,
    shards: str,
    settings: Mapping[str, Any],
    search: Mapping[str, Dimension] | None = None,
) -> list[Trial]:
    """Draw a sweep's trials, or lay out its grid, and check each one's whole config.

    Raises:
        UsageError: a config does not hold, or two points give the same config.
    """
    base = base_of(preset, shards=shards, settings=settings, search=search)
    wanted = grid(base.space, base.rows) if algorithm == "grid" else draw(base.space, count, base.seed, base.rows)
    made = [base.trial(number, point) for number, point in enumerate(wanted, start=1)]
    first: dict[str, Trial] = {}
    for trial in made:
        if (twin := first.setdefault(trial.key, trial)) is not trial:
            fix = "set train.workers=2 and train.sync_norm=off" if _synced(twin, trial) else "mend the space"
            what = f"trials {twin.number} and {trial.number} are the same run"
            raise UsageError(what, describe(trial.point), fix)
    return made


def _synced(*pair: Trial) -> bool:
    """Say whether trials of one key differ in how batch norm is synchronised: not at all, on one worker."""
    return len({(trial.config.head.norm, trial.config.train.sync_norm) for trial in pair}) > 1


class Built(NamedTuple):
    """Proof that trials differ: the fingerprint of the built model, and what is searched outside of it."""

    trial: Trial
    fingerprint: str
    parameters: int
    outside: str

    def line(self) -> str:
        """Say which model the trial builds, and from which values."""
        trial, model = self.trial, f"model {self.fingerprint}  {self.parameters:,} parameters"
        return f"  {trial.number:3d} {trial.key}  {model}  {describe(trial.point)}"


def built(made: Sequence[Trial], num_classes: int) -> list[Built]:
    """Build every trial's model (without weights, on the meta device) and take its fingerprint.

    Raises:
        UsageError: a model or its loss cannot be built, or a searched value changes neither the model nor the loss,
            optimiser, data or schedule.
    """
    found = []
    for trial in made:
        model = segmenter.skeleton(trial.config.model(num_classes))
        losses.for_model(trial.config.loss, model, ignore_index=num_classes, num_classes=num_classes)
        outside = {k: v for k, v in configs.identity(trial.config).items() if not k.startswith(("head.", "backbone."))}
        found.append(
            Built(trial, segmenter.fingerprint(model), sum(p.numel() for p in model.parameters()), str(outside))
        )
    seen: dict[tuple[str, str], Trial] = {}
    for each in found:
        twin = seen.setdefault((each.fingerprint, each.outside), each.trial)
        if twin is not each.trial:
            raise UsageError(
                f"trials {twin.number} and {each.trial.number} build the same model and train it alike",
                f"{describe(twin.point)} | {describe(each.trial.point)}",
                "search a value that changes something",
            )
    return found

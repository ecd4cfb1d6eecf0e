"""Training in phases: runs, each in a folder of its own, that begin with the best weights of the one before.

GALD trains on Cityscapes' fine labels, then on the coarse ones with batch norm held, then on the fine ones again. Every
phase is a run like any other, with its own recipe, schedule and commits, so what is finished stays finished and what
was interrupted goes on. A command is the same each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rayseg import config as configs
from rayseg import recipe as recipes
from rayseg import segmenter
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.train.review import Summary


class Phase(NamedTuple):
    """A run of its own: a recipe by name, the settings on top of it, its shards and its folder."""

    recipe: str
    settings: dict[str, Any]
    shards: str
    folder: Path


def plan(names: Sequence[str], run_dir: Path, settings: Mapping[str, Any], shards: Sequence[str]) -> list[Phase]:
    """Lay out the phases of `run_dir`: `1-cityscapes_r101`, `2-cityscapes_coarse` and so on.

    `settings` hold in all of them, but for `start_from`, which is where the first one begins. `shards` has one folder
    or URL a phase.

    Raises:
        UsageError: a recipe is wrong, or one phase's weights do not fit the next one's model. Nothing has begun then.
    """
    assert len(names) == len(shards)
    phases: list[Phase] = []
    for name, where in zip(names, shards, strict=True):
        own = dict(settings) | ({"start_from": str(phases[-1].folder)} if phases else {})
        phases.append(Phase(name, own, where, run_dir.absolute() / f"{len(phases) + 1}-{Path(name).stem}"))
    models = [_shapes(_config(phase)) for phase in phases]
    for before, after, one, other in zip(phases, phases[1:], models, models[1:], strict=False):
        if different := sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)):
            what = f"{before.recipe} trains another model: {len(different)} weights differ, {different[0]} the first"
            fix = "give all phases the same backbone, head and auxiliary output"
            raise UsageError(what, f"phase {after.folder.name}", fix)
    return phases


def follow(
    phases: Sequence[Phase], train: Callable[[Phase], Summary | None], show: Callable[[str], None]
) -> Summary | None:
    """Train one after the other; give the last one's summary, None where one of them was paused."""
    summary = None
    for at, phase in enumerate(phases, 1):
        show(f"phase {at}/{len(phases)}: {phase.recipe}")
        if (summary := train(phase)) is None:
            return None
    return summary


def _config(phase: Phase) -> RunConfig:
    run = recipes.load(phase.recipe).run
    return configs.from_dict(configs.merged(run, {"data.shards": phase.shards, **phase.settings}), phase.recipe)


def _shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Give the weights' shapes for some number of classes: which one, the shards say later."""
    model = segmenter.skeleton(config.model(num_classes=19))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

"""Several recipes in one command: each begins where the one before ended, and is a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rayseg import recipe as recipes
from rayseg.cluster import home
from rayseg.cluster.single import Show, Start, train_one
from rayseg.errors import UsageError
from rayseg.train import phases, review


def train_phases(
    names: Sequence[str],
    *,
    shards: Sequence[str],
    run_dir: Path | None,
    settings: Mapping[str, Any],
    show: Show,
    on_start: Start,
) -> review.Summary | None:
    """Train the recipes one after the other in folders below `run_dir`; None where one was paused.

    The same command goes on where it was, and says at once what is finished. `shards` names one folder or URL a recipe,
    or none: they are then looked for by each recipe's data set.

    Raises:
        UsageError: not one `shards` a recipe, or a recipe that cannot follow the one before; nothing has begun then.
    """
    if shards and len(shards) != len(names):
        fix = "give one --shards for each --recipe, in their order, or none"
        raise UsageError(f"{len(shards)} shards for {len(names)} recipes", "--shards", fix)
    given: Sequence[str | None] = shards or [None] * len(names)
    cards = [recipes.load(name).dataset for name in names]
    where = [home.shards_of(card, each, show) for card, each in zip(cards, given, strict=True)]
    name = f"phases-{Path(names[-1]).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = (run_dir or home.run_path(name)).absolute()
    planned = phases.plan(names, folder, settings, where)

    def train(phase: phases.Phase) -> review.Summary | None:
        return train_one(
            recipe=phase.recipe,
            dataset=None,
            shards=phase.shards,
            run_dir=phase.folder,
            settings=phase.settings,
            show=show,
            on_start=on_start,
        )

    summary = phases.follow(planned, train, show)
    if summary is None:
        show(f"all phases go on with the same command and --run {folder}")
    return summary

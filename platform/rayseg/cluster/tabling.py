"""`rayseg table`: reads what finished runs say of a paper's table, and runs what is missing as a sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rayseg import config as configs
from rayseg import recipe as recipes
from rayseg.cluster import home
from rayseg.cluster.driver import run_sweep
from rayseg.cluster.recall import opened
from rayseg.errors import ClusterError
from rayseg.sweep import memory
from rayseg.sweep.journal import tell
from rayseg.sweep.options import Options
from rayseg.sweep.preset import Sweep
from rayseg.sweep.trial import Trial
from rayseg.tables import find
from rayseg.tables.asked import Asked, ask, missing
from rayseg.tables.figures import figures
from rayseg.tables.kept import kept
from rayseg.tables.text import Page
from rayseg.tracking.history import Earlier, earlier

Show = Callable[[str], None]


class Wish(NamedTuple):
    """What the user asks for; None leaves it to the table."""

    name: str
    recipe: str | None = None
    dataset: str | None = None
    shards: str | None = None
    settings: dict[str, Any] = {}
    seeds: int | None = None


class Subject(NamedTuple):
    """A table over a recipe and the samples of its runs; `data` is their digest."""

    asked: Asked
    shards: str
    card: str
    data: str


def subject(wish: Wish, show: Show) -> Subject:
    """Open the shards, and work out the rows' runs; nothing is written, but a drawn data set.

    Raises:
        UsageError, DataError: the table, the recipe, a setting or the shards do not hold.
    """
    table = find(wish.name)
    recipe = wish.recipe or table.recipe
    shards = home.shards_of(wish.dataset or recipes.load(recipe).dataset, wish.shards, show)
    asked = ask(table, recipe, shards, wish.settings, wish.seeds)
    _, val, digest = opened(asked.config.data, wish.dataset)
    return Subject(asked, shards, val.card.name, digest)


def read(about: Subject, show: Show) -> Page:
    """Read what finished runs say: those in the folders here, and those of the tracking server, where one is up."""
    wanted = {configs.digest(trial.config) for trial in about.asked.trials()}
    runs = [*kept(home.runs(), wanted), *_tracked(about.data, show)] if wanted else []
    return Page(about.asked, figures(about.asked, runs, about.data), about.card)


def _tracked(data: str, show: Show) -> list[Earlier]:
    uri = home.tracking_uri()
    if uri is None:
        show("MLflow is not up: only runs in the folders here are read")
        return []
    try:
        return earlier(uri, {memory.DATA: data}, (memory.MIOU,))
    except ClusterError as error:
        show(f"warning: {error.what} ({error.where}): only runs in the folders here are read")
        return []


def run_missing(wish: Wish, about: Subject, show: Show) -> Page:
    """Run what no finished run says, as one sweep after another until all is there; give the page then.

    Typed again, it goes on with the sweep that it began.

    Raises:
        TrainingError and others: as a sweep; also where all that was missing failed.
    """
    found = read(about, show).found
    while left := missing(about.asked.lines, found.keys):
        show(f"{len(left)} of {len(about.asked.trials())} runs are missing: {experiment(wish, about)}")
        before = found.keys
        _run(wish, about, left, show)
        found = read(about, _quiet).found
        if found.keys == before:
            break  # they failed, and say so
    return Page(about.asked, found, about.card)


def _quiet(line: str) -> None:
    """Say nothing: the first look said it."""


def experiment(wish: Wish, about: Subject) -> str:
    """Name the experiment that the runs are in."""
    return f"table-{wish.name}-{about.card}"


def _run(wish: Wish, about: Subject, left: Sequence[Trial], show: Show) -> None:
    folder, keys = _begun(wish, about, {trial.key for trial in left})
    trials = left
    if keys:
        by_key = {trial.key: trial for trial in about.asked.trials()}
        trials = [by_key[key] for key in keys]
    preset = about.asked.preset.model_copy(update={"rows": tuple(dict(trial.point) for trial in trials)})
    sweep = Sweep(name=f"table-{wish.name}", about=preset.about, presets={"table": preset}, picture=("row", "seed"))
    optional = {name for trial in about.asked.trials() for name in trial.point}
    settings = {name: value for name, value in wish.settings.items() if name not in optional}
    options = Options(preset="table", shards=about.shards, settings=settings, name=folder.name, resume=bool(keys))
    run_sweep(sweep, options, show=show)


def _begun(wish: Wish, about: Subject, left: set[str]) -> tuple[Path, list[str]]:
    """Find the sweep that this command began and that has something of this left, else a folder for a new one."""
    every = {trial.key for trial in about.asked.trials()}
    what = [sorted(every), about.asked.recipe, about.data]
    stem = f"{experiment(wish, about)}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
    number = 1
    while True:
        folder = home.run_path(f"{stem}-{number}")
        if not (folder / "journal.jsonl").exists():
            return folder, []
        story = tell(folder)
        keys = list(story.plan.get("keys", [])) if story is not None else []
        if left & set(keys) and set(keys) <= every:
            return folder, keys
        number += 1

"""A table over a recipe: which run each row is, with each seed, and in what these runs differ from the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rayseg import config as configs
from rayseg import recipe
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.schema import to_dict
from rayseg.sweep.origin import Base, Trial, base_of
from rayseg.sweep.preset import Preset
from rayseg.sweep.space import Point
from rayseg.tables.form import Row, Table

LOOKED_FOR = 16
"""So many seeds are looked for where no number is asked for: the recipe's and those after it."""


class Line(NamedTuple):
    """A row and its runs, one a seed; `why` says what keeps it from being run."""

    row: Row
    trials: tuple[Trial, ...]
    why: str


class Asked(NamedTuple):
    """A table as it is asked for: `settings` are the user's, on every row; `base` is what all rows start from."""

    table: Table
    recipe: str
    settings: dict[str, Any]
    preset: Preset
    base: Base
    config: RunConfig
    lines: tuple[Line, ...]

    def trials(self) -> list[Trial]:
        """List the runs of all rows."""
        return [trial for line in self.lines for trial in line.trials]


def ask(table: Table, recipe_name: str, shards: str, settings: Mapping[str, Any], seeds: int | None) -> Asked:
    """Work out every row's runs; a row that does not hold over this recipe says why, and keeps nobody waiting.

    What the table's own settings take out (None), because not every row reads it, stays as the recipe or the user has
    it in the rows that do.

    Raises:
        UsageError: the recipe or a setting does not hold, or the setting is what the rows differ in.
    """
    _refuse(table, settings)
    optional = {name for name, value in table.settings.items() if value is None}
    plain = {name: value for name, value in settings.items() if name not in optional}
    preset = Preset(about=table.title, recipe=recipe_name, settings=dict(table.settings), algorithm="grid")
    base = base_of(preset, shards=shards, settings=plain)
    wished = _wished(table, recipe_name, {name: settings[name] for name in optional & settings.keys()})
    lines = [_line(row, base, wished, seeds or LOOKED_FOR) for row in table.rows]
    for name in sorted(optional & settings.keys()):
        if not any(name in trial.point for line in lines for trial in line.trials):
            raise UsageError(f"{name} would be ignored: no row of {table.name} reads it", "--set", "drop it")
    config = configs.from_dict(base.run, recipe_name)
    return Asked(table, recipe_name, dict(settings), preset, base, config, tuple(lines))


def _refuse(table: Table, settings: Mapping[str, Any]) -> None:
    differing = {name for row in table.rows for name in row.settings or ()} | {"seed", "head.name"}
    for name in sorted(differing & settings.keys()):
        fix = "ask for seeds with --seeds" if name == "seed" else "drop it, or take another table"
        raise UsageError(f"'{name}' is what the rows of {table.name} are made of", "--set", fix)


def _wished(table: Table, recipe_name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of the taken-out settings the user, else the recipe, has a value for."""
    run = recipe.load(recipe_name).run
    same_head = run.get("head", {}).get("name") == table.settings["head.name"]
    flat = configs.flatten(run) if same_head else {}
    return {name: flat[name] for name, value in table.settings.items() if value is None and name in flat} | dict(
        settings
    )


def _line(row: Row, base: Base, wished: Mapping[str, Any], seeds: int) -> Line:
    if row.settings is None:
        return Line(row, (), row.note)
    point: Point = dict(row.settings)
    try:
        base.trial(0, point)
        for name, value in wished.items():
            if name not in point and _reads(base, point, name, value):
                point[name] = value
        made = tuple(base.trial(0, point | {"seed": base.seed + number}) for number in range(seeds))
    except UsageError as error:
        return Line(row, (), f"not over this recipe: {error.what}")
    return Line(row, made, "")


def _reads(base: Base, point: Point, name: str, value: Any) -> bool:
    """Say whether a row's run reads a setting that others refuse."""
    try:
        head = base.trial(0, point | {name: value}).config.head
    except UsageError:
        return False
    return bool(getattr(head, "border", False)) if name.startswith("loss.border_") else True


def numbered(trials: Iterable[Trial]) -> list[Trial]:
    """Number trials from 1."""
    return [trial._replace(number=number) for number, trial in enumerate(trials, start=1)]


# --- beside the paper -----------------------------------------------------------------------------------------------


def differences(asked: Asked, card: str) -> list[str]:
    """Say in words what keeps our figures from being compared with the paper's; nothing where nothing does.

    `card` is the data set of our runs.
    """
    table, ours = asked.table, asked.config
    papers = recipe.load(table.recipe).dataset
    found = []
    if card != papers:
        found.append(f"other data: the paper's are of {papers} val, ours of {card} {ours.data.val_split}")
    elif ours.data.val_samples is not None or ours.data.val_split != "val":
        found.append(f"other images: the paper's are of all of val, ours of {seen(asked)}")
    if table.steps is not None and ours.train.steps != table.steps:
        found.append(f"other steps: the paper's runs are of {table.steps}, ours of {ours.train.steps}")
    if table.steps is None and ours.train.steps != (guess := _papers_run(table).train.steps):
        found.append(f"other steps: the paper gives none, {table.recipe} has {guess}, ours are of {ours.train.steps}")
    if not ours.backbone.pretrained and ours.backbone.weights is None and ours.start_from is None:
        found.append("other start: the paper's from ImageNet's weights, ours from random ones")
    return found


def changed(asked: Asked) -> list[str]:
    """Name what else of the paper's recipe is otherwise here."""
    theirs, ours = (configs.identity(config) for config in (_papers_run(asked.table), asked.config))
    said = {"train.steps", "backbone.pretrained", "data.val_samples", "data.val_split"}
    return sorted(
        name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name) and name not in said
    )


def _papers_run(table: Table) -> RunConfig:
    run = configs.merged(recipe.load(table.recipe).run, {**table.settings, "data.shards": "anywhere"})
    return configs.from_dict(run, table.recipe)


def seen(asked: Asked) -> str:
    """Say which images our figures are of, without the data set's name."""
    data = asked.config.data
    return data.val_split if data.val_samples is None else f"the first {data.val_samples} of {data.val_split}"


def plain(asked: Asked) -> dict[str, Any]:
    """Give the resolved run under all rows, in plain types."""
    return to_dict(asked.config)


def missing(lines: Sequence[Line], known: Iterable[str]) -> list[Trial]:
    """List the runs whose key is not known, the first seed of every row before the second."""
    there, depth = set(known), max((len(line.trials) for line in lines), default=0)
    ordered = [line.trials[n] for n in range(depth) for line in lines if n < len(line.trials)]
    return numbered(trial for trial in ordered if trial.key not in there)

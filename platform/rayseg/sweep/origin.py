"""What all trials of a sweep start from, and what is searched over it: put together, and checked value by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rayseg import config as configs
from rayseg import heads, recipe
from rayseg.config import RunConfig
from rayseg.errors import UsageError
from rayseg.schema import to_dict
from rayseg.sweep.preset import Preset
from rayseg.sweep.space import Choice, Dimension, Point, Space, one, settle

SAMPLED = 64
"""So many points of a space are tried before a sweep: a combination that does not hold is found before it is chosen."""


class Trial(NamedTuple):
    """One point of a sweep; `key` is a hash of its config, the same in every attempt and after a restart."""

    number: int
    key: str
    point: Point
    config: RunConfig


class Base(NamedTuple):
    """The run (plain types) under a sweep's points, and its space, conditions on the run decided."""

    run: dict[str, Any]
    space: Space
    rows: tuple[Point, ...]
    seed: int

    def trial(self, number: int, point: Point) -> Trial:
        """Make the trial at a point.

        Raises:
            UsageError: its config does not hold.
        """
        config = configs.from_dict(configs.merged(self.run, point), f"trial {number}: {describe(point)}")
        return Trial(number, configs.digest(_as_trained(config))[:8], point, config)


def _as_trained(config: RunConfig) -> RunConfig:
    """Call what normalises alike the same: on one worker, batch norm over the batches of all is batch norm."""
    head, train = config.head, config.train
    if train.workers == 1:
        train = train.model_copy(update={"sync_norm": "auto"})
    if head.norm == "sync_batch" and (train.workers == 1 or train.sync_norm == "on"):
        head = head.model_copy(update={"norm": "batch"})
    return config.model_copy(update={"head": head, "train": train})


def describe(point: Mapping[str, Any]) -> str:
    """Write a point shortly: the label of each name and its value."""
    named = labels(point)
    return " ".join(f"{named[name]}={short(value)}" for name, value in point.items()) or "(the base)"


def labels(names: Iterable[str]) -> dict[str, str]:
    """Shorten each name to its last part, where no other one ends so."""
    last = {name: name.rsplit(".", 1)[-1] for name in names}
    ends = list(last.values())
    return {name: end if ends.count(end) == 1 else name for name, end in last.items()}


def short(value: object) -> str:
    """Write one searched value: numbers to four digits, `true`, `false` and lists as in TOML, None as `none`."""
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(short, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- putting together -----------------------------------------------------------------------------------------------


def base_of(
    preset: Preset, *, shards: str, settings: Mapping[str, Any], search: Mapping[str, Dimension] | None = None
) -> Base:
    """Take a preset with `settings` fixed, and with `search` beside or in place of its own dimensions.

    A dimension in place of a preset's keeps its condition. Every value and both bounds of every dimension have been in
    a whole config then, and so has a sample of all points.

    Raises:
        UsageError: the base, a value or a combination does not hold; the dimension and the value are named.
    """
    search, rows = search or {}, preset.rows
    of_rows = {name for row in rows for name in row}
    _refuse_twice(search, settings, of_rows)
    run = configs.merged(recipe.load(preset.recipe).run, {**preset.settings, "data.shards": shards, **settings})
    config = configs.from_dict(run, "the sweep's base")
    free = {name: dimension for name, dimension in preset.space.items() if name not in settings}
    for name, dimension in search.items():
        when = free[name].when if name in free and not dimension.when else dimension.when
        free[name] = dimension.model_copy(update={"when": when})
    space = settle(_of_heads(free, rows), configs.flatten(to_dict(config)), of_rows)
    base = Base(run, space, tuple(dict(row) for row in rows), config.seed)
    _check(base)
    return base


def _refuse_twice(search: Mapping[str, Any], settings: Mapping[str, Any], of_rows: set[str]) -> None:
    for name in [*search, *settings]:
        option = "--search" if name in search else "--set"
        if name in of_rows:
            raise UsageError(f"'{name}' differs from row to row of this preset", option, "drop it, or take another")
        if name in search and name in settings:
            raise UsageError(f"'{name}' is searched and set", option, "keep one of them")


def _of_heads(space: Space, rows: tuple[Point, ...]) -> dict[str, Dimension]:
    """Where heads are searched, search a head's own option under the heads that have it."""
    named = space.get("head.name")
    searched = [row["head.name"] for row in rows if "head.name" in row] or (
        list(named.values) if isinstance(named, Choice) else []
    )
    result: dict[str, Dimension] = {}
    for name, dimension in space.items():
        table, _, option = name.partition(".")
        if searched and table == "head" and option not in ("name", "norm") and "head.name" not in dimension.when:
            having = tuple(head for head in searched if option in heads.config_class(str(head)).model_fields)
            if not having:
                raise UsageError(f"none of the searched heads has '{option}'", name, "search other heads, or drop it")
            dimension = dimension.model_copy(update={"when": dimension.when | {"head.name": having}})
        result[name] = dimension
    return result


# --- checking -------------------------------------------------------------------------------------------------------


def _check(base: Base) -> None:
    for name, dimension in base.space.items():
        for value in dimension.ends():
            around(base, name, value)
    rng = np.random.default_rng(0)
    for _ in range(SAMPLED):
        point = one(base.space, rng, base.rows)
        try:
            configs.from_dict(configs.merged(base.run, point), "space")
        except UsageError as error:
            raise UsageError(f"at {describe(point)}: {error.what}", error.where, error.fix) from None


def probes(base: Base) -> list[Trial]:
    """Make a trial for each value and bound of each dimension, equal ones once.

    An algorithm that chooses its points as it goes has no list to show before; these stand for it in `built`.
    """
    found: dict[str, Trial] = {}
    for name, dimension in base.space.items():
        for value in dimension.ends():
            trial = base.trial(len(found) + 1, around(base, name, value))
            found.setdefault(trial.key, trial)
    return list(found.values())


def around(base: Base, name: str, value: Any) -> Point:
    """Find a point with this value of a dimension: all else as in the base, or, where that is invalid, at its first.

    Raises:
        UsageError: no such point holds.
    """
    fault: UsageError | None = None
    for fill in (False, True):
        for point in _points(base, name, value, fill=fill):
            try:
                configs.from_dict(configs.merged(base.run, point), "--search")
            except UsageError as error:
                fault = fault or error
            else:
                return point
    if fault is None:
        what = f"'{name}' is never searched: its conditions are never met"
        raise UsageError(what, "space", "drop it, or mend its `when`")
    raise UsageError(f"'{name}' cannot be {short(value)}: {fault.what}", fault.where, fault.fix)


def _points(base: Base, name: str, value: Any, *, fill: bool) -> Iterator[Point]:
    """Go through points with this value: one a row and a way to meet its conditions."""
    wanted = {name: (value,)} | _conditions(base.space, name)
    for row in base.rows or ({},):
        point = dict(row)
        for other, dimension in base.space.items():
            if not dimension.exists(point):
                continue
            if other in wanted:
                allowed = [v for v in wanted[other] if not isinstance(dimension, Choice) or v in dimension.values]
                point |= {other: allowed[0]} if allowed else {}
            elif fill:
                point[other] = dimension.ends()[0]
        if point.get(name, _NOTHING) == value and base.space[name].exists(point):
            yield point


_NOTHING = object()


def _conditions(space: Space, name: str) -> dict[str, tuple[Any, ...]]:
    """Collect what a dimension's existence asks of others, and theirs."""
    found: dict[str, tuple[Any, ...]] = {}
    for other, values in space[name].when.items():
        found[other] = values
        if other in space:
            found = _conditions(space, other) | found
    return found

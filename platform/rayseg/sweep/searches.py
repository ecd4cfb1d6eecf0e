"""A sweep's search by the name of its algorithm: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rayseg.errors import UsageError
from rayseg.sweep import finals
from rayseg.sweep.asha import Asha, Rule
from rayseg.sweep.bohb import Bohb
from rayseg.sweep.finals import Finals
from rayseg.sweep.fixed import Fixed
from rayseg.sweep.hyperband import HyperBand
from rayseg.sweep.ladder import Ladder
from rayseg.sweep.maker import Maker
from rayseg.sweep.origin import Base
from rayseg.sweep.pbt import Pbt
from rayseg.sweep.preset import Algorithm, Preset
from rayseg.sweep.recheck import Rechecked
from rayseg.sweep.search import Figures, Search
from rayseg.sweep.sequential import Model, Sequential
from rayseg.sweep.space import draw
from rayseg.sweep.tpe import Tpe
from rayseg.sweep.trial import Trial

BEFOREHAND: frozenset[Algorithm] = frozenset({"grid", "random", "asha", "hyperband"})
"""Algorithms whose trials are all known, and proved to differ (`trial.built`), before the first one starts."""
STARTUP = 10
"""TPE draws its first points at random: as many as Optuna does, but at most a quarter of the sweep."""


class Known(NamedTuple):
    """What an earlier sweep says of a point of this one; `figures` are those of its best evaluation."""

    trial: Trial
    curve: Mapping[int, float]
    figures: Figures


def make(
    preset: Preset,
    *,
    algorithm: Algorithm,
    trials: Sequence[Trial],
    base: Base,
    count: int,
    num_classes: int | None,
    known: Sequence[Known] = (),
) -> Search:
    """Make the search; the same arguments make one that decides the same.

    `trials` are those of `trial.trials`, for the algorithms that know theirs beforehand. The others choose over `base`
    and make `count` trials at most, each built without weights unless `num_classes` is None. What is `known` is not run
    again, and TPE and BOHB learn from it.

    Raises:
        UsageError: the algorithm cannot search this, reads nothing of what is known, or there can be no finals.
    """
    maker = Maker(base, None if algorithm in BEFOREHAND else num_classes)
    search = _searching(preset, algorithm, maker, trials, count, known)
    if preset.seeds is None:
        return search
    finals.check(maker, preset, len(trials) or count)
    before = {each.trial.key: (each.trial, each.figures["miou"]) for each in known}
    standing = preset.rungs[-1] if preset.rungs else {}
    return Finals(search, maker, top=preset.top, seeds=preset.seeds, known=before, standing=standing)


def _searching(
    preset: Preset, algorithm: Algorithm, maker: Maker, trials: Sequence[Trial], count: int, known: Sequence[Known]
) -> Search:
    if algorithm in ("pbt", "ladder"):
        if known:
            fix = "drop it, or use another algorithm"
            raise UsageError("earlier runs would be ignored", f"--warm-start with --algorithm {algorithm}", fix)
        return _pbt(preset, maker) if algorithm == "pbt" else _ladder(preset, maker, count)
    rule = _rule(preset, algorithm, maker)
    if algorithm in ("tpe", "bohb"):
        search: Search = _sequential(preset, algorithm, maker, count, rule, known)
    else:
        maker.known(trials)
        done = {k.trial.key for k in known}
        search = Fixed([t for t in trials if t.key not in done], rule)
    if rule is None:
        return search
    return Rechecked(search, maker, rule, count=preset.recheck, seed=maker.base.seed)


def _rule(preset: Preset, algorithm: Algorithm, maker: Maker) -> Rule | None:
    if algorithm not in ("asha", "hyperband", "bohb"):
        return None
    steps, first = (train := maker.config({}).train).steps, preset.grace_steps or train.eval_every
    if first >= steps:
        what = f"grace_steps = {first} of train.steps = {steps}: no trial would ever be stopped"
        raise UsageError(what, f"--algorithm {algorithm}", "lower grace_steps, or raise train.steps")
    rule = Asha if algorithm == "asha" else HyperBand
    return rule(grace_steps=first, max_steps=steps, reduction_factor=preset.reduction_factor)


def _sequential(
    preset: Preset, algorithm: Algorithm, maker: Maker, count: int, rule: Rule | None, known: Sequence[Known]
) -> Sequential:
    space = maker.base.space
    model: Model
    if rule is not None:
        model = Bohb(space, [*rule.steps(), maker.config({}).train.steps])
    else:
        model = Tpe(space, startup=max(2, min(STARTUP, count // 4)), objectives=len(preset.objectives))
    objectives = Objectives(preset.objectives, maker)
    search = Sequential(maker, model, trials=count, rule=rule, objectives=objectives)
    for each in known:
        search.know(each.trial, each.curve, objectives(each.trial, each.figures))
    return search


class Objectives:
    """Reads the values of a preset's objectives, each the more the better; `-name` makes a figure small."""

    def __init__(self, names: Sequence[str], maker: Maker) -> None:
        self.names, self.maker = tuple(names), maker

    def __call__(self, trial: Trial, figures: Figures) -> tuple[float, ...]:
        """Give the values of a trial at an evaluation.

        Raises:
            UsageError: its report lacks one.
        """
        return tuple(self._value(name, trial, figures) for name in self.names)

    def _value(self, name: str, trial: Trial, figures: Figures) -> float:
        figure, sign = name.removeprefix("-"), -1.0 if name.startswith("-") else 1.0
        if figure == "parameters":
            return sign * self.maker.parameters[trial.key]
        if figure not in figures:
            raise UsageError(f"trial {trial.key} reports no {figure}", "objectives", f"drop {name}, or report it")
        return sign * figures[figure]


def _pbt(preset: Preset, maker: Maker) -> Pbt:
    every = preset.perturb_steps or maker.config({}).train.eval_every
    return Pbt(maker, members=preset.population, perturb_steps=every)


def _ladder(preset: Preset, maker: Maker, count: int) -> Ladder:
    base = maker.base
    return Ladder(
        maker,
        draw(base.space, count, base.seed, base.rows),
        preset.rungs,
        reduction_factor=preset.reduction_factor,
        fresh=preset.fresh,
        recheck=preset.recheck,
    )

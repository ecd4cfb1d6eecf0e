"""What the user chose on a sweep's command line, and what becomes of a preset under it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field

from rayseg.errors import UsageError
from rayseg.schema import Value, parse
from rayseg.sweep.journal import Story
from rayseg.sweep.preset import Algorithm, Objective, Preset, Sweep, unread
from rayseg.sweep.space import AnyDimension
from rayseg.sweep.trial import short


class Options(Value):
    """What the user chose on the command line; None leaves it to the preset."""

    preset: str = "demo"
    dataset: str | None = None
    shards: str | None = None
    algorithm: Algorithm | None = None
    trials: int | None = None
    settings: dict[str, Any] = {}
    search: dict[str, AnyDimension] = {}
    objectives: tuple[Objective, ...] | None = None
    warm_start: bool = False
    name: str | None = None
    resume: bool = False
    concurrent: int | None = None
    top: Annotated[int, Field(ge=2)] | None = None
    seeds: Annotated[int, Field(ge=2)] | None = None

    def changed(self) -> str:
        """Say what of the preset the command line replaced."""
        plain = {name: getattr(self, name) for name in ("dataset", "algorithm", "trials")}
        said = [f"{name} {value}" for name, value in plain.items() if value is not None]
        said += [f"{name}={short(value)}" for name, value in self.settings.items()]
        return ", ".join([*said, *(f"{name} is searched" for name in self.search)])

    def resumed(self, story: Story) -> Self:
        """Take the sweep's own options, but where its shards lie, how much runs at once, and finals if it had none.

        Raises:
            UsageError: something else was given than the sweep has.
        """
        before = parse(type(self), story.plan["options"], "the sweep's journal")
        kept = ("dataset", "algorithm", "trials", "settings", "search", "objectives", "warm_start", "top", "seeds")
        for field in kept:
            given, was = getattr(self, field), getattr(before, field)
            later = field in ("top", "seeds") and before.seeds is None  # asked for when the rest is seen
            if given and given != was and not later:
                raise UsageError(f"{field} = {given} at a resume, the sweep has {was}", "--resume", "leave it out")
        free = {name: getattr(self, name) or getattr(before, name) for name in ("shards", "concurrent", "top", "seeds")}
        return before.model_copy(update={"resume": True, **free})


def under(sweep: Sweep, options: Options) -> Preset:
    """Give the sweep's preset with the algorithm, the objectives and the finals that were asked for.

    Raises:
        UsageError: no such preset, or something would be ignored in it.
    """
    preset = _aiming(sweep.preset(options.preset).under(options.algorithm), options.objectives)
    if ignored := [name for name in options.settings if preset.rungs and all(name in rung for rung in preset.rungs)]:
        raise UsageError(f"{ignored[0]} would be ignored: every rung of the ladder sets it", "--set", "drop it")
    return _deciding(preset, options)


def _aiming(preset: Preset, objectives: tuple[Objective, ...] | None) -> Preset:
    if objectives is None:
        return preset
    if "objectives" in unread(preset.algorithm):
        what = f"{objectives[-1].lstrip('-')} would be ignored with --algorithm {preset.algorithm}"
        raise UsageError(what, "--objective", "use grid, random or tpe")
    return preset.model_copy(update={"objectives": objectives})


def _deciding(preset: Preset, options: Options) -> Preset:
    asked = {name: value for name in ("top", "seeds") if (value := getattr(options, name)) is not None}
    if asked and "seeds" in unread(preset.algorithm):
        what = f"would be ignored with --algorithm {preset.algorithm}: its members go on from each other"
        raise UsageError(what, f"--{next(iter(asked))}", "drop it, or use another algorithm")
    if asked and "seeds" not in asked and preset.seeds is None:
        raise UsageError("would be ignored without --seeds", "--top", "give both: --seeds 3")
    return preset.model_copy(update=asked)

"""A sweep's definition and its trials: every trial is a whole RunConfig, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from rayseg import config as configs
from rayseg import losses, recipe, segmenter
from rayseg.config import RunConfig
from rayseg.errors import UsageError, nearest
from rayseg.schema import Value
from rayseg.sweep.space import Choice, Point, Uniform, draw, grid

Algorithm = Literal["grid", "random", "asha"]


class Preset(Value):
    """One size of a sweep: the recipe every trial starts from, what is searched, and how.

    `settings` are dotted names over the recipe; `trials` counts draws (a grid has its own number);
    `grace_steps` is ASHA's first rung.
    """

    about: str
    recipe: str
    settings: dict[str, Any]
    space: dict[str, Annotated[Choice | Uniform, Field(discriminator="kind")]]
    algorithm: Algorithm
    trials: Annotated[int, Field(ge=1)] = 8
    grace_steps: Annotated[int, Field(ge=1)] = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Sweep(Value):
    """What a job file exports as `SWEEP`. `picture` names the two searched values of the heat map."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    about: str
    presets: dict[str, Preset]
    picture: tuple[str, str]

    def preset(self, name: str) -> Preset:
        """Find a preset.

        Raises:
            UsageError: no such preset; the nearest names are offered.
        """
        if name not in self.presets:
            raise UsageError(f"unknown preset '{name}'", "--preset", nearest(name, self.presets))
        return self.presets[name]


class Trial(NamedTuple):
    """One point of a sweep; `key` is a hash of its config, the same in every attempt and after a restart."""

    number: int
    key: str
    point: Point
    config: RunConfig


def trials(
    preset: Preset, *, algorithm: Algorithm, count: int, shards: str, settings: Mapping[str, Any]
) -> list[Trial]:
    """Draw a sweep's trials and check each one's whole config.

    Raises:
        UsageError: a config does not hold, or two points give the same config.
    """
    base = configs.merged(recipe.load(preset.recipe).run, {**preset.settings, "data.shards": shards, **settings})
    free = {name: dimension for name, dimension in preset.space.items() if name not in settings}
    seed = configs.from_dict(base, "the sweep's base").seed
    points = grid(free) if algorithm == "grid" else draw(free, count, seed)
    made = []
    for number, point in enumerate(points, start=1):
        config = configs.from_dict(configs.merged(base, point), f"trial {number}: {describe(point)}")
        made.append(Trial(number, configs.digest(config)[:8], point, config))
    first: dict[str, Trial] = {}
    for trial in made:
        if (twin := first.setdefault(trial.key, trial)) is not trial:
            raise UsageError(
                f"trials {twin.number} and {trial.number} are the same run", describe(trial.point), "mend the space"
            )
    return made


def describe(point: Mapping[str, Any]) -> str:
    """Write a point shortly: the last part of each name and its value."""
    return " ".join(f"{name.rsplit('.', 1)[-1]}={short(value)}" for name, value in point.items()) or "(the base)"


def short(value: object) -> str:
    """Write one searched value: numbers to four digits, `true` and `false` as in TOML."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


class Built(NamedTuple):
    """Proof that trials differ: the fingerprint of the built model, and what is searched outside of it."""

    trial: Trial
    fingerprint: str
    parameters: int
    outside: str


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

"""Search spaces: dotted config names and the values they may take; grids and seeded draws without repetition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from rayseg.errors import UsageError
from rayseg.schema import Value

Point = dict[str, Any]
"""One choice for every searched name."""
Scalar = bool | int | float | str
TRIES_PER_POINT = 100
"""The chance to miss one of n points that are as likely in 100 n tries is under n e^-100."""


class Choice(Value):
    """One of a few values, no two of them equal; Python counts `True`, `1` and `1.0` as equal."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        for position, value in enumerate(values):
            if value in values[:position]:
                twin = values[values.index(value)]
                raise UsageError(f"values {twin!r} and {value!r} are equal", "space", "keep one of them")
        return values

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one value, each as likely."""
        return self.values[int(rng.integers(len(self.values)))]


class Uniform(Value):
    """A number between bounds; `log` spreads it evenly over magnitudes."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UsageError(f"bounds {self.low} .. {self.high}", "space", "low below high, and above 0 on a log scale")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one number, rounded to four digits so that a table can show what ran."""
        drawn = (
            math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            if self.log
            else rng.uniform(self.low, self.high)
        )
        return min(max(float(f"{drawn:.4g}"), self.low), self.high)


Space = Mapping[str, Choice | Uniform]


def choice(*values: Scalar) -> Choice:
    """Shorthand for `Choice(values=...)`."""
    return Choice(values=values)


def grid(space: Space) -> list[Point]:
    """List every combination, the last name changing fastest.

    Raises:
        UsageError: a name has bounds in place of values.
    """
    columns = []
    for name, dimension in space.items():
        if not isinstance(dimension, Choice):
            raise UsageError(f"'{name}' has bounds, not values", "--algorithm grid", "use --algorithm random or asha")
        columns.append([(name, value) for value in dimension.values])
    return [dict(combination) for combination in itertools.product(*columns)]


def draw(space: Space, trials: int, seed: int) -> list[Point]:
    """Draw different points, the same for the same seed; fewer where the values have no more combinations.

    A longer draw begins with the shorter one, so that a sweep can be extended.

    Raises:
        UsageError: bounds so narrow that, at four digits, they do not hold as many numbers.
    """
    size = math.prod(len(d.values) if isinstance(d, Choice) else 1 << 30 for d in space.values())
    wanted = min(trials, size)
    rng = np.random.default_rng(seed)
    points: dict[tuple[Scalar, ...], Point] = {}
    tries = TRIES_PER_POINT * wanted
    while len(points) < wanted:
        if tries == 0:
            found = f"{len(points)} distinct points found, {wanted} asked for"
            raise UsageError(found, ", ".join(space), "ask for fewer, or widen the bounds (numbers have four digits)")
        tries -= 1
        point = {name: dimension.draw(rng) for name, dimension in space.items()}
        points.setdefault(tuple(point.values()), point)
    return list(points.values())

"""Search spaces: dotted config names and the values they may take; grids and seeded draws without repetition.

A dimension with `when` exists only where other names have given values: a head's options exist under that head. Where
it does not exist, a point lacks its name, and the run keeps what it has there without the search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from rayseg.errors import UsageError
from rayseg.schema import Value

Point = dict[str, Any]
"""One choice for every searched name that exists there."""
Scalar = bool | int | float | str | None
Option = Scalar | tuple[Scalar, ...]
"""A value of a choice; a tuple is a list of the config."""
Condition = tuple[Option, ...]
"""The values of another name, one of which it must have."""
TRIES_PER_POINT = 100
"""After n points, 100 (n + 1) tries without a new one mean that there is none, but for a chance under e^-100."""
_ENDLESS = 1 << 30


class _Dimension(Value):
    """Abstract: the values of one name, and the condition under which it is searched at all."""

    when: dict[str, Condition] = {}

    @field_validator("when", mode="before")
    @classmethod
    def _several(cls, when: Any) -> Any:
        """Take one value for a tuple of it, and a list from JSON for a tuple."""
        if not isinstance(when, Mapping):
            return when
        several = {name: v if isinstance(v, (tuple, list)) else (v,) for name, v in when.items()}
        return {name: tuple(map(_plain, values)) for name, values in several.items()}

    def exists(self, point: Mapping[str, Any]) -> bool:
        """Say whether it is searched at `point`, in which the names of `when` stand, if they exist there."""
        return all(name in point and point[name] in values for name, values in self.when.items())


class Choice(_Dimension):
    """One of a few values, no two of them equal; Python counts `True`, `1` and `1.0` as equal."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Option, ...], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[Option, ...]) -> tuple[Option, ...]:
        for position, value in enumerate(values):
            if value in values[:position]:
                twin = values[values.index(value)]
                raise UsageError(f"values {twin!r} and {value!r} are equal", "space", "keep one of them")
        return values

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one value, each as likely."""
        return self.values[int(rng.integers(len(self.values)))]

    def ends(self) -> tuple[Option, ...]:
        """Give the values that a config has to take, for all of them to be valid."""
        return self.values


class _Bounded(_Dimension):
    """Abstract: numbers between bounds; `log` spreads them evenly over magnitudes."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UsageError(f"bounds {self.low} .. {self.high}", "space", "low below high, and above 0 on a log scale")
        return self

    def ends(self) -> tuple[Option, ...]:
        """Give the values that a config has to take, for all between them to be valid."""
        return self.low, self.high


class Uniform(_Bounded):
    """A number between bounds, both included."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one number, rounded to four digits so that a table can show what ran."""
        drawn = (
            math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            if self.log
            else rng.uniform(self.low, self.high)
        )
        return min(max(float(f"{drawn:.4g}"), self.low), self.high)


class Integer(_Bounded):
    """A whole number between bounds, both included; every `step`-th of them, from `low` on."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _reached(self) -> Self:
        if self.log and self.step != 1:
            raise UsageError(f"step = {self.step} on a log scale", "space", "drop one of them")
        if (self.high - self.low) % self.step:
            fix = f"end at {self.high - (self.high - self.low) % self.step}"
            raise UsageError(f"{self.low} .. {self.high} is no multiple of step = {self.step}", "space", fix)
        return self

    def draw(self, rng: np.random.Generator) -> int:
        """Draw one number."""
        if not self.log:
            return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))
        return min(int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))), self.high)


Dimension = Choice | Uniform | Integer
AnyDimension = Annotated[Dimension, Field(discriminator="kind")]
Space = Mapping[str, Dimension]


def choice(*values: Option | Sequence[Scalar], when: Mapping[str, Any] | None = None) -> Choice:
    """Shorthand for `Choice(values=...)`; lists may stand among the values."""
    return Choice(values=tuple(map(_plain, values)), when=dict(when or {}))


def settle(space: Space, base: Mapping[str, Any], rows: Collection[str] = ()) -> dict[str, Dimension]:
    """Decide the conditions on names that are not searched by their values in `base`, a config by dotted names.

    What is left of the conditions is on searched names that come before, those of `rows` among them; what can never
    exist is left out.

    Raises:
        UsageError: a condition on a name that `base` has not, or that is searched later.
    """
    settled: dict[str, Dimension] = {}
    never: set[str] = set()
    for name, dimension in space.items():
        left: dict[str, Condition] = {}
        for other, values in dimension.when.items():
            if other in settled or other in rows:
                left[other] = values
            elif other in never or (other in base and _plain(base[other]) not in values):
                never.add(name)
            elif other in space or other not in base:
                fix = "write it after that one" if other in space else "name a field of the run, or a searched one"
                raise UsageError(f"'{name}' is searched only with {other} = {_words(values)}", f"space.{name}", fix)
        if name not in never:
            settled[name] = dimension.model_copy(update={"when": left})
    return settled


def _plain(value: Any) -> Any:
    """Give a list as a tuple, which can be compared with a choice's."""
    return tuple(value) if isinstance(value, list) else value


def _words(values: Condition) -> str:
    return " or ".join(map(str, values))


def grid(space: Space, rows: Sequence[Point] = ()) -> list[Point]:
    """List every combination, the last name changing fastest; of each of `rows`, where there are any.

    Raises:
        UsageError: a name has bounds in place of values.
    """
    for name, dimension in space.items():
        if not isinstance(dimension, Choice):
            raise UsageError(f"'{name}' has bounds, not values", "--algorithm grid", "use --algorithm random or asha")
    return list(_combinations(space, rows))


def _combinations(space: Space, rows: Sequence[Point]) -> Iterator[Point]:
    """Go through all points; what has bounds stands in them as None."""

    def under(point: Point, left: list[tuple[str, Dimension]]) -> Iterator[Point]:
        if not left:
            yield point
            return
        (name, dimension), rest = left[0], left[1:]
        if not dimension.exists(point):
            yield from under(point, rest)
            return
        for value in dimension.values if isinstance(dimension, Choice) else (None,):
            yield from under({**point, name: value}, rest)

    for row in rows or ({},):
        yield from under(dict(row), list(space.items()))


def one(space: Space, rng: np.random.Generator, rows: Sequence[Point] = ()) -> Point:
    """Draw a point."""
    point = dict(rows[int(rng.integers(len(rows)))]) if rows else {}
    for name, dimension in space.items():
        if dimension.exists(point):
            point[name] = dimension.draw(rng)
    return point


def size(space: Space, rows: Sequence[Point] = (), *, most: int = _ENDLESS) -> int:
    """Count the points of a space, as far as `most`; one with bounds has more than anyone asks for."""
    total = 0
    for point in _combinations(space, rows):
        endless = any(name in point and not isinstance(d, Choice) for name, d in space.items())
        total += _ENDLESS if endless else 1
        if total >= most:
            break
    return total


def draw(space: Space, trials: int, seed: int, rows: Sequence[Point] = ()) -> list[Point]:
    """Draw different points, the same for the same seed; fewer where the values have no more combinations.

    A longer draw begins with the shorter one, so that a sweep can be extended.

    Raises:
        UsageError: bounds so narrow that, at four digits, they do not hold as many numbers.
    """
    wanted = min(trials, size(space, rows, most=max(trials, 1)))
    rng = np.random.default_rng(seed)
    points: dict[tuple[Any, ...], Point] = {}
    tries = 0
    while len(points) < wanted:
        point = one(space, rng, rows)
        known = len(points)
        points.setdefault(tuple(point.items()), point)
        tries = 0 if len(points) > known else tries + 1
        if tries > TRIES_PER_POINT * (len(points) + 1):
            return _rest(space, rows, list(points.values()), wanted)
    return list(points.values())


def _rest(space: Space, rows: Sequence[Point], points: list[Point], wanted: int) -> list[Point]:
    """Add what is so unlikely that it was not drawn: a combination under a condition that is seldom met."""
    if not all(isinstance(d, Choice) for d in space.values()):
        found = f"{len(points)} distinct points found, {wanted} asked for"
        raise UsageError(found, ", ".join(space), "ask for fewer, or widen the bounds (numbers have four digits)")
    missing = (point for point in _combinations(space, rows) if point not in points)
    return [*points, *itertools.islice(missing, wanted - len(points))]

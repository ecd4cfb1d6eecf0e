"""What a job file exports: a sweep, and its presets. What an algorithm would ignore is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from rayseg.errors import UsageError, nearest
from rayseg.schema import Value
from rayseg.sweep.space import AnyDimension, Option

Algorithm = Literal["grid", "random", "tpe", "asha", "hyperband", "bohb", "pbt", "ladder"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
Objective = Literal["miou", "-parameters", "-latency_ms"]
"""What is made large; of parameters and latency their negative, so that they are made small."""

_FINALS = {"top", "seeds"}
_STOPPING = {"trials", "grace_steps", "reduction_factor", "recheck"} | _FINALS
READ: dict[Algorithm, set[str]] = {
    "grid": {"objectives"} | _FINALS,
    "random": {"trials", "objectives"} | _FINALS,
    "tpe": {"trials", "objectives"} | _FINALS,
    "asha": _STOPPING,
    "hyperband": _STOPPING,
    "bohb": _STOPPING,
    "pbt": {"population", "perturb_steps"},
    "ladder": {"trials", "rungs", "fresh", "reduction_factor", "recheck"} | _FINALS,
}
"""Which of a preset's numbers each algorithm reads."""
OF_SPACES: set[Algorithm] = {"tpe", "bohb", "pbt"}
"""Algorithms that choose each point anew, and so cannot be held to `rows`."""
Count = Annotated[int, Field(ge=1)]


class Preset(Value):
    """One size of a sweep: the recipe every trial starts from, what is searched, and how.

    `settings` are dotted names over the recipe. `rows` are points one by one, such as a paper's table has them; with a
    `space` beside them each row is combined with it. `trials` counts draws (a grid has its own number).

    `grace_steps` is the first rung of ASHA, HyperBand and BOHB, the first evaluation where it is not given; a rung
    keeps one of `reduction_factor`. So many stopped trials as `recheck` says run to the end after all, to see whether
    stopping them was right. PBT has a `population`, of which the worst go on from the best every `perturb_steps`, at
    each evaluation where it is not given. `rungs` are the ladder's: settings of each, cheapest first, the last one
    being the run itself (`{}`). With `seeds` the `top` best run again, until each has so many seeds: only then a winner
    is named.
    """

    about: str
    recipe: str
    settings: dict[str, Any]
    space: dict[str, AnyDimension] = {}
    rows: tuple[dict[str, Option], ...] = ()
    algorithm: Algorithm
    trials: Count = 8
    grace_steps: Count | None = None
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    recheck: Annotated[int, Field(ge=0)] = 0
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=2)] = ("miou",)
    population: Annotated[int, Field(ge=2)] = 4
    perturb_steps: Count | None = None
    rungs: tuple[dict[str, Any], ...] = ()
    fresh: bool = False
    top: Annotated[int, Field(ge=2)] = 2
    seeds: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        for field in sorted(unread(self.algorithm)):
            if (value := getattr(self, field)) != type(self).model_fields[field].default:
                what = f"{field} = {value} would be ignored with algorithm = {self.algorithm}"
                raise UsageError(what, f"preset.{field}", "drop it, or choose another algorithm")
        return self

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.rows and self.algorithm in OF_SPACES:
            fix = "use grid, random or asha, or give a space"
            raise UsageError(f"{self.algorithm} chooses points of its own, rows are fixed", "preset.rows", fix)
        if twice := sorted({name for row in self.rows for name in row} & self.space.keys()):
            raise UsageError(f"'{twice[0]}' is in rows and in space", "preset.space", "keep one of them")
        if self.objectives[0] != "miou" or len(set(self.objectives)) != len(self.objectives):
            what = f"objectives = {list(self.objectives)}"
            raise UsageError(what, "preset.objectives", "begin with miou, then at most one of -parameters, -latency_ms")
        if self.algorithm == "ladder" and len(self.rungs) < 2:
            raise UsageError("a ladder needs two rungs or more", "preset.rungs", "give the settings of each")
        if self.seeds is None and self.top != type(self).model_fields["top"].default:
            raise UsageError(f"top = {self.top} would be ignored without seeds", "preset.top", "give seeds too")
        return self

    def under(self, algorithm: Algorithm | None) -> Preset:
        """Give the preset with another algorithm, without what that one would ignore; with None itself.

        Raises:
            UsageError: that algorithm cannot search this.
        """
        if algorithm is None or algorithm == self.algorithm:
            return self
        kept = {field: value for field, value in self if field not in unread(algorithm)}
        return Preset(**{**kept, "algorithm": algorithm})


def unread(algorithm: Algorithm) -> set[str]:
    """Name the fields of a preset that this algorithm reads nothing of."""
    return set().union(*READ.values()) - READ[algorithm]


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

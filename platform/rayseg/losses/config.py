"""What a loss is made of, by name; every name can be set and searched as `loss.<name>`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from rayseg.borders import Edges
from rayseg.errors import UsageError, nearest
from rayseg.schema import Value

Weight = Annotated[float, Field(ge=0)]


class Config(Value):
    """What is minimised. Options of what is not used are None, and refused when given.

    Every output of classes learns by `kind`, a mean over pixels, each weighted by its class's entry in
    `class_weights` and divided by the sum of those weights. `focal_gamma` (2) and `focal_alpha` (1) belong to "focal";
    the paper's alpha per class is `class_weights`. `"main"` gets `dice_weight` times Dice and `lovasz_weight` times
    Lovász-softmax on top, means over the classes shown, weighted by `class_weights` too.

    With `ohem` the main output's `kind` learns from pixels whose true class has a probability of at most
    `ohem_threshold`, and from at least the `ohem_min_kept` hardest pixels of the global batch. Probabilities choose,
    class weights do not; the mean is over the chosen pixels. Dice and Lovász see every valid pixel. Both numbers are
    read only with `ohem`; they may stand without it, so that a sweep over `ohem` can start from one recipe.

    `weights` replaces the head's own weights of its outputs, by name, or that of `"main"` (1); `"aux"` has
    `aux_weight`, read only where the head has that output. An output of weight 0 is not computed and trains nothing.

    A head's border outputs learn by the focal loss with `border_gamma` (2) and `border_alpha` (0.25, or "none"), each
    with `border_weight` (the head's own; DFN's lambda), borders being found as `rayseg.borders` says: `border_edges`
    ("change"), `border_width` (7), `border_legacy_ignore` (false).
    """

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: Weight | None = None
    focal_alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    class_weights: Annotated[tuple[Weight, ...], Strict(False)] | None = None  # JSON has lists
    dice_weight: Weight = 0.0
    lovasz_weight: Weight = 0.0
    aux_weight: Weight = 0.4
    weights: dict[str, Weight] = {}
    ohem: bool = False
    ohem_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    ohem_min_kept: Annotated[int, Field(ge=1)] = 100_000
    border_weight: Weight | None = None
    border_gamma: Weight | None = None
    border_alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["none"] | None = None
    border_edges: Edges | None = None
    border_width: Annotated[int, Field(ge=1)] | None = None
    border_legacy_ignore: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {field: value for field, value in given.items() if value is not None or field not in _FOCAL}
        if given.get("kind") == "focal":
            return _FOCAL | given
        for field in sorted(_FOCAL.keys() & given.keys()):
            what = f"{field} = {given[field]} would be ignored with kind = {given.get('kind', 'cross_entropy')}"
            raise UsageError(what, f"loss.{field}", "drop it, or set loss.kind=focal")
        return given

    @field_validator("class_weights")
    @classmethod
    def _some_class(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not any(weights):
            raise UsageError("no class has a weight above 0", "loss.class_weights", "give one number per class")
        return weights

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if "aux" in self.weights:
            raise UsageError("'aux' has a weight of its own", "loss.weights.aux", "set loss.aux_weight instead")
        if self.border_width is not None and self.border_width % 2 == 0:
            what = f"border_width = {self.border_width} has no centre"
            raise UsageError(what, "loss.border_width", "choose 3, 5 or 7")
        return self

    def unread(self, *, aux: bool) -> set[str]:
        """Name the fields that nothing reads, of a head that has the output `"aux"` or has not."""
        return ({"ohem_threshold", "ohem_min_kept"} if not self.ohem else set()) | (
            {"aux_weight"} if not aux else set()
        )


_FOCAL = {"focal_gamma": 2.0, "focal_alpha": 1.0}


def resolve_weights(config: Config, own: Mapping[str, float], borders: Collection[str]) -> dict[str, float]:
    """Give every output's weight: the head's own, and what the config says instead.

    Raises:
        UsageError: the config names an output that the head has not, or borders where none learns; or no output has
            a weight.
    """
    given = [field for field, value in config if field.startswith("border_") and value is not None]
    if given and not borders:
        fix = "drop it, or choose a head that learns borders, such as dfn"
        raise UsageError(f"{given[0]} would be ignored: the head has no border outputs", f"loss.{given[0]}", fix)
    weights = {"main": 1.0, **own}
    if config.border_weight is not None:
        weights |= dict.fromkeys(borders, config.border_weight)
    if unknown := sorted(config.weights.keys() - weights.keys()):
        what = f"the head has no output '{unknown[0]}'"
        raise UsageError(what, f"loss.weights.{unknown[0]}", nearest(unknown[0], weights))
    weights |= config.weights | {"aux": config.aux_weight}
    options = [field for field in given if field != "border_weight"]
    if options and not any(weights[name] for name in borders):
        fix = "drop it, or give a border output a weight above 0"
        raise UsageError(f"{options[0]} would be ignored: no border output has a weight", f"loss.{options[0]}", fix)
    if not any(weights.values()):
        raise nothing_trains()
    return weights


def nothing_trains() -> UsageError:
    """Say that no output has a weight."""
    fix = "give one a weight above 0: loss.weights.main is 1 by default"
    return UsageError("no output has a weight, so nothing would be trained", "loss.weights", fix)

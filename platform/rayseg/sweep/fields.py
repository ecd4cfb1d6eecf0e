"""What can be searched: any field of a run, by its dotted name, and the kinds of values that it takes."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rayseg import heads
from rayseg.config import RunConfig
from rayseg.errors import UsageError, nearest
from rayseg.schema import Value

Kind = Literal["bool", "int", "float", "str", "list", "none"]


def kinds(name: str) -> set[Kind]:
    """Say which kinds of values the field called `name` takes, such as `head.kernel_size` or `loss.weights.aux1`.

    An option of any head counts, whichever head a run has.

    Raises:
        UsageError: no run has such a field; the nearest name is offered.
    """
    found = set().union(*(_kinds(annotation) for annotation in _annotations(name)))
    if not found:
        table, _, last = name.rpartition(".")
        fields = set(_names())
        if beside := {field.removeprefix(f"{table}.") for field in fields if table and field.startswith(f"{table}.")}:
            raise UsageError(f"no run has a field '{name}'", "--search", nearest(last, beside))
        if inside := {field for field in fields if field.startswith(f"{name}.")}:
            raise UsageError(f"'{name}' is a table", "--search", nearest(name, inside))
        raise UsageError(f"no run has a field '{name}'", "--search", nearest(name, fields))
    return found


def _annotations(name: str) -> list[Any]:
    """Follow the name from the run's config down, in every head where it is a head's."""
    owners: list[Any] = [RunConfig]
    for part in name.split("."):
        following: list[Any] = []
        for owner in owners:
            if typing.get_origin(owner) is dict:
                following.append(typing.get_args(owner)[1])
            elif owner is heads.HeadConfig:
                following += [f for c in _head_configs() if (f := _field(c, part)) is not None]
            elif (field := _field(owner, part)) is not None:
                following.append(field)
        owners = following
    return owners


def _field(owner: Any, part: str) -> Any:
    """Give a field's annotation without what is said about it: a head's config for `head`."""
    if not (isinstance(owner, type) and issubclass(owner, Value)) or part not in owner.model_fields:
        return None
    annotation = owner.model_fields[part].annotation
    return heads.HeadConfig if owner is RunConfig and part == "head" else annotation


def _head_configs() -> list[type[heads.HeadConfig]]:
    return [heads.config_class(name) for name in heads.names()]


def _kinds(annotation: Any) -> set[Kind]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, typing.get_args(annotation)))
    if origin is Literal:
        return set().union(*(_PLAIN.get(type(value), set()) for value in typing.get_args(annotation)))
    if origin in (tuple, list):
        return {"list"}
    return set(_PLAIN.get(annotation, set()))


_PLAIN: Mapping[Any, set[Kind]] = {
    bool: {"bool"},
    int: {"int"},
    float: {"float"},
    str: {"str"},
    type(None): {"none"},
}


def _names(owner: Any = RunConfig, prefix: str = "") -> Iterator[str]:
    """List the dotted names of all fields, those of every head together."""
    configs = _head_configs() if owner is heads.HeadConfig else [owner]
    for config in configs:
        for part in config.model_fields:
            inner = _field(config, part)
            if isinstance(inner, type) and issubclass(inner, Value):
                yield from _names(inner, f"{prefix}{part}.")
            elif typing.get_origin(inner) is dict:
                yield f"{prefix}{part}.main"
            else:
                yield f"{prefix}{part}"

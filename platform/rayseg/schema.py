"""Values: frozen, typed, unknown keys refused with the nearest name. Every config of rayseg is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rayseg.errors import RaysegError, UsageError, nearest


class Value(BaseModel):
    """A frozen value. `to_dict(v)` and `parse(type(v), to_dict(v))` are inverse to each other."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Give itself: it never changes."""
        return self


V = TypeVar("V", bound=Value)


def to_dict(value: Value) -> dict[str, Any]:
    """Give the value as plain JSON types."""
    return value.model_dump(mode="json")


def parse(cls: type[V], mapping: Mapping[str, Any], where: object) -> V:
    """Build `cls` from plain JSON types.

    Raises:
        UsageError: the first fault, with its dotted field, the value and what is valid.
    """
    try:
        return cls.model_validate_json(json.dumps(mapping))
    except ValidationError as error:
        raise _first_fault(cls, error, where) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"not a plain value: {error}", where, "use numbers, text, true/false, lists, tables") from None


def _first_fault(cls: type[Value], error: ValidationError, where: object) -> RaysegError:
    faults = error.errors(include_url=False)
    # A misspelt key leaves its field missing: the misspelling is the fault.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, RaysegError):
        return inner
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        owner = _owner(cls, fault["loc"][:-1])
        valid = nearest(str(fault["loc"][-1]), owner.model_fields if owner else ())
        return UsageError(f"unknown key '{field}'", where, valid)
    if not fault["loc"]:  # of the whole value: its validator names the fields
        text = fault["msg"].removeprefix("Value error, ")
        what, _, fix = text.rpartition(": ")
        own = fault["type"] == "value_error" and bool(what)
        return UsageError(what if own else _short(fault["input"]), where, fix if own else text)
    given = "" if fault["type"] == "missing" else f" = {_short(fault['input'])}"
    return UsageError(f"{field}{given}", where, fault["msg"].removeprefix("Value error, "))


def _owner(cls: type[Value], path: tuple[int | str, ...]) -> type[Value] | None:
    owner: Any = cls
    for part in path:
        field = getattr(owner, "model_fields", {}).get(part)
        owner = field.annotation if field is not None else None
    return owner if isinstance(owner, type) and issubclass(owner, Value) else None


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

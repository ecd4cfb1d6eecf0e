"""`--search` texts: `optim.lr=1e-4..1e-1:log`, `head.kernel_size=3,5,7`, `head.channels=64..256:64`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from rayseg.config import each_once
from rayseg.errors import UsageError
from rayseg.sweep.fields import Kind, kinds
from rayseg.sweep.space import Dimension, Integer, Uniform, choice

FORMS = "write it as optim.lr=1e-4..1e-1:log, or head.kernel_size=3,5,7"
_NUMBER = r"[-+]?[\d.]*\d(?:[eE][-+]?\d+)?"
_BOUNDS = re.compile(rf"({_NUMBER}|\d+\.)\.\.({_NUMBER})(?::(\w+))?")


def parse_search(text: str) -> tuple[str, Dimension]:
    """Read `name=values` or `name=low..high`, of any field of a run.

    Values are TOML, lists among them, any other word is text. Bounds may end in `:log`, those of whole numbers in
    `:8`, the step. What a field takes decides whether bounds are of whole numbers.

    Raises:
        UsageError: it cannot be read, no run has such a field, or it does not take that kind of values.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"cannot read '{text}'", "--search", FORMS)
    taken = kinds(name)
    try:
        return name, _bounded(name, values, taken) if ".." in values else _listed(name, values)
    except UsageError as error:
        raise UsageError(error.what, f"--search {name}", error.fix) from None


def parse_searches(texts: Iterable[str]) -> dict[str, Dimension]:
    """Read every text; the same name twice is refused."""
    return each_once(map(parse_search, texts), "searched", "--search")


def _listed(name: str, values: str) -> Dimension:
    options = [_value(word) for word in _words(values)]
    if len(options) == 1:
        fix = f"use --set {name}={values}, or give several"
        raise UsageError(f"one value of '{name}' is no search", "--search", fix)
    return choice(*options)


def _bounded(name: str, values: str, taken: set[Kind]) -> Dimension:
    if not (read := _BOUNDS.fullmatch(values)):
        raise UsageError(f"cannot read '{name}={values}'", "--search", FORMS)
    if not taken & {"int", "float"}:
        raise UsageError(f"'{name}' takes no numbers, so it has no bounds", "--search", "list its values: a,b,c")
    low, high, how = read.groups()
    log, step = how == "log", int(how) if how and how.isdigit() else None
    if how and not log and not step:
        raise UsageError(f"cannot read ':{how}' of '{name}'", "--search", "end with :log, or with a step such as :8")
    if "float" in taken:
        if step:
            raise UsageError(f"'{name}' is no whole number, so it has no step", "--search", f"drop ':{how}'")
        return Uniform(low=float(low), high=float(high), log=log)
    try:
        return Integer(low=int(low), high=int(high), log=log, step=step or 1)
    except ValueError:
        raise UsageError(f"'{name}' takes whole numbers, not {values}", "--search", "write it as 3..7") from None


def _words(values: str) -> list[str]:
    """Split at the commas outside of brackets and quotes."""
    return [word.strip() for word in re.findall(r"""(?:\[[^\]]*\]|"[^"]*"|[^,\["])+""", values)]


def _value(word: str) -> Any:
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return None if word == "none" else word

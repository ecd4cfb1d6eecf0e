"""What is said about a cluster's file, and how its values and commands are looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rayseg.errors import ClusterError, UsageError

FORM, CLUSTER = UsageError.exit_code, ClusterError.exit_code
_VARIABLE = re.compile(r"(?:^|[\s;])([A-Z][A-Z0-9_]*)=((?:\$\([^)]*\)|\"[^\"]*\"|'[^']*'|[^\s;\"'])*)")


class Finding(NamedTuple):
    """A line: what is wrong, where, and the fix. `code` is what an error exits with, 0 where it is a warning."""

    code: int
    what: str
    where: str
    fix: str

    @property
    def is_error(self) -> bool:
        """Whether the file must not be used so."""
        return self.code != 0

    def within(self, name: str) -> Finding:
        """Say which file it is about."""
        return self._replace(where=f"{name}: {self.where}" if self.where else name)

    def __str__(self) -> str:
        return " ".join(f"{'error' if self.code else 'warning'}: {self.what} ({self.where}): {self.fix}".split())


def warning(what: str, where: str, fix: str) -> Finding:
    """Make a finding that stops nobody."""
    return Finding(0, what, where, fix)


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """List all texts below a value with where they stand: `available_node_types.head.node_config.ImageId`."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, where)


def mapping(value: Any) -> dict[str, Any]:
    """Give a mapping as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Give a list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def variables(commands: list[str]) -> dict[str, str]:
    """Read what shell commands set: `export A=1 B=$(cat x)` gives A and B, as they are written."""
    return {name: value.strip("\"'") for line in commands for name, value in _VARIABLE.findall(line)}

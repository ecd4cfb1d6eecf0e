"""Names that MLflow takes, made of any text."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping


def valid_name(name: str) -> str:
    """Make any text a name that MLflow takes: letters, digits, `_ - . / : space`, and a plain relative path."""
    clean = re.sub(r"[^\w./: -]", "_", name)[:240].strip("/ ")
    clean = re.sub(r"(?<![^/])\.+(?![^/])", "_", clean)  # no part is `.` or `..`
    return posixpath.normpath(f"/{clean}").strip("/") or "_"


def named(values: Mapping[str, float]) -> dict[str, float]:
    """Give every value a name that MLflow takes, no two the same one."""
    found: dict[str, float] = {}
    for name, value in values.items():
        clean = valid_name(name)
        while clean in found:  # `sign (x)` and `sign [x]` stay two
            clean += "_"
        found[clean] = float(value)
    return found

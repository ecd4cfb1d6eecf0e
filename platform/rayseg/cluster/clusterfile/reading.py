"""From a file to plain types: YAML (and so JSON) without its traps, each fault with its line and column."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rayseg.errors import UsageError

MOST_BYTES, MOST_VALUES = 256 * 1024, 20_000
"""A cluster's file has a few hundred lines. Names that stand for each other's values could make gigabytes of that."""


def read(path: Path) -> Any:
    """Read a cluster's file.

    Raises:
        UsageError: it cannot be read, is no YAML, has a key twice or a Python object, or is far too large.
    """
    text = _text(path)
    loader = _Strict(text)
    try:
        found = loader.get_single_data()
    except yaml.YAMLError as error:
        raise UsageError(_what(error), _where(path, error), "mend that line") from None
    except (ValueError, RecursionError) as error:  # a date that is none, lists in lists without end
        raise UsageError(f"not plain YAML: {error}", path, "write it with plain keys, texts and numbers") from None
    finally:
        loader.dispose()
    if found is None:
        raise UsageError("it is empty", path, "begin with a copy of the repository's cluster.yaml")
    _check_size(found, path)
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"more than {MOST_BYTES >> 10} KiB", path, "name a cluster's file")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", path, "name a file, such as cluster.yaml") from None
    except UnicodeDecodeError:
        raise UsageError("it is no text in UTF-8", path, "save it as UTF-8") from None


class _Strict(yaml.SafeLoader):
    """YAML's plain types alone; a key that stands twice is refused, where PyYAML takes the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Make a mapping."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
                    seen.add(key.value)
        return super().construct_mapping(node, deep)


def _what(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    if "could not determine a constructor" in problem:
        return f"{problem.rpartition(' ')[2]} is no plain type"
    return " ".join(str(problem).split())[:120]


def _where(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _check_size(found: Any, path: Path) -> None:
    left, waiting = MOST_VALUES, [found]
    while waiting:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        left -= 1 + len(inner)
        if left < 0:
            raise UsageError(f"more than {MOST_VALUES} values", path, "write them out once; names multiply them")
        waiting += inner

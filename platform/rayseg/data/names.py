"""Names: which files of a folder belong to a split, from the lists and ranges of its card."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from rayseg.data.split import Split
from rayseg.errors import DataError

MAX_LIST_BYTES = 64 * 2**20


class Chosen(NamedTuple):
    """The names that `*` may stand for; `None` is any."""

    listed: frozenset[str] | None
    left_out: frozenset[str]
    ranges: tuple[tuple[str, str], ...] | None

    def takes(self, name: str) -> bool:
        """Tell whether the name belongs to the split."""
        listed = self.listed is None or name in self.listed
        inside = self.ranges is None or any(first <= name <= last for first, last in self.ranges)
        return listed and inside and name not in self.left_out

    def missing(self, found: Container[str]) -> list[str]:
        """Give the listed names that are not among the found ones, sorted."""
        return sorted(name for name in self.listed or () if name not in found and self.takes(name))


def chosen(root: Path, split: Split, home: str) -> Chosen:
    """Read the split's lists below `root`.

    Raises:
        DataError: a list is missing, empty or no list of names.
    """
    listed = None if split.lists is None else _read_all(root, split.lists, home)
    return Chosen(listed, _read_all(root, split.without or (), home), split.ranges)


def _read_all(root: Path, lists: tuple[str, ...], home: str) -> frozenset[str]:
    return frozenset[str]().union(*(_read(root / name, home) for name in lists))


def _read(path: Path, home: str) -> frozenset[str]:
    """Read a list: a line's first word is a name, without folder and extension; empty lines count for nothing."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError("a list of names that is no list", path, f"the data comes from {home}")
        words = [line.split() for line in path.read_text("utf-8-sig").splitlines()]
    except OSError as error:
        raise DataError(f"cannot read the list: {error.strerror}", path, f"the data comes from {home}") from None
    except UnicodeDecodeError:
        raise DataError("the list is not UTF-8 text", path, f"the data comes from {home}") from None
    found = frozenset(line[0] for line in words if line)
    if not found:
        raise DataError("the list is empty", path, f"the data comes from {home}")
    return found

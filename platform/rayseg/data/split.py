"""Splits: which samples are a split's, as a card says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from rayseg.schema import Value

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _below_root(path: str) -> str:
    parts = path.split("/")
    if not all(parts) or {".", ".."} & set(parts) or re.search(r"\*\*|[?\[\\]", path):
        raise ValueError("write a pattern below the root, such as 'train/*.png' (no '..', '**', '?' or '[')")
    return path


def _pattern(pattern: str) -> str:
    if "*" not in _below_root(pattern):
        raise ValueError("put a * where image and mask have their common name")
    return pattern


Pattern = Annotated[str, AfterValidator(_pattern)]
Listings = Annotated[tuple[Annotated[str, AfterValidator(_below_root)], ...], Field(min_length=1)]


class Split(Value):
    """Pairs of files, the number of samples to draw, or the other splits that a split is made `of`.

    Files are found by two patterns. Where not all of a folder's belong to the split, `lists` are text files below the
    root that name those that do, one a line, `without` those that name what is left out, and `ranges` give the first
    and the last name, in the order of text. A split made `of` others takes no room: its samples are theirs.
    """

    images: Pattern | None = None
    masks: Pattern | None = None
    lists: Listings | None = None
    without: Listings | None = None
    ranges: Annotated[tuple[tuple[Text, Text], ...], Field(min_length=1)] | None = None
    expected: Annotated[int, Field(ge=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    of: Annotated[tuple[Name, ...], Field(min_length=2)] | None = None

    @property
    def stored(self) -> bool:
        """Whether shards are written for it."""
        return self.of is None

    def given(self) -> set[str]:
        """Name the fields that are set."""
        return {field for field, info in Split.model_fields.items() if getattr(self, field) != info.default}


def check(splits: Mapping[str, Split], drawn: bool) -> None:
    """Refuse fields that do not go together.

    Raises:
        ValueError: the first fault, with the split's name.
    """
    for name, split in splits.items():
        if split.of is not None:
            _check_members(name, split, splits)
        elif drawn and split.given() != {"count"}:
            raise ValueError(f"splits.{name} of a generated set takes 'count' alone")
        elif not drawn:
            _check_files(name, split)


def _check_members(name: str, split: Split, splits: Mapping[str, Split]) -> None:
    members = split.of or ()
    if split.given() != {"of"}:
        raise ValueError(f"splits.{name} is made of others: 'of' stands alone")
    if len(set(members)) < len(members) or not all(one in splits and splits[one].stored for one in members):
        stored = ", ".join(one for one, other in splits.items() if other.stored)
        raise ValueError(f"splits.{name} is made of other splits, each once: {stored}")


def _check_files(name: str, split: Split) -> None:
    if split.images is None or split.masks is None or split.count is not None:
        raise ValueError(f"splits.{name} needs 'images' and 'masks' ('count' goes with [generated])")
    if split.images.count("*") != split.masks.count("*"):
        raise ValueError(f"splits.{name}: as many * in 'images' as in 'masks'")
    if split.images.count("*") > 1 and {"lists", "without", "ranges"} & split.given():
        raise ValueError(f"splits.{name}: 'lists', 'without' and 'ranges' name what one * stands for")

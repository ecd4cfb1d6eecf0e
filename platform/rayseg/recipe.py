"""Recipes: what a run starts from, as data in `recipes/<head>/<what>.toml`. Their tables are RunConfig's own.

In a paper's recipe every value is the paper's, or its line says `# choice: why`; epochs are turned into steps by the
arithmetic beside them. A later stage has `start_from = ""`: which run it goes on from is the user's to name.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rayseg.errors import UsageError, nearest
from rayseg.schema import Value, parse

FOLDER = Path(__file__).parent / "recipes"


class Recipe(Value):
    """A run without its shards: the card it is meant for, and RunConfig's tables as plain types."""

    about: Annotated[str, Field(min_length=1)]
    dataset: str
    run: dict[str, Any]


def names() -> list[str]:
    """List the recipes that come with the project, sorted."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.toml"))


def fitting(card: str) -> str:
    """Name a recipe for a card's samples: GALD's for it, or the one for drawn scenes."""
    return name if (name := f"gald/{card}") in names() else "gald/scenes"


def load(name: str) -> Recipe:
    """Read a recipe by its name (`gald/scenes`), or from the path of a `.toml` file.

    Raises:
        UsageError: no such recipe, or a fault in it.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise UsageError(f"unknown recipe '{name}'", "--recipe", nearest(name, names()))
    try:
        return parse(Recipe, tomllib.loads(path.read_text("utf-8")), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipe: {error}", path, "name a UTF-8 .toml file that exists") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", path, "mend that line; see https://toml.io") from None

"""The catalogue: the cards there are, and what of their data sets lies below a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rayseg.data import card as cards
from rayseg.data import pairs
from rayseg.data.card import Card
from rayseg.errors import DataError


def template() -> str:
    """Give the text of a card to make one's own of."""
    return (cards.FOLDER / "folder.toml").read_text("utf-8")


def table(root: Path | None) -> Iterator[str]:
    """List every card in a line: classes, samples as its papers count them, what is found in its folder below `root`.

    Raises:
        DataError: there is no folder `root`.
    """
    if root is not None and not root.is_dir():
        raise DataError("no such folder", root, "name the one that holds a folder for each data set")
    yield f"{'card':18}{'classes':>7}  {'samples':46}{f'found below {root}' if root else ''}".rstrip()
    for name in cards.names():
        card = cards.load(name)
        samples = ", ".join(f"{split} {card.expected(split) or 'any'}" for split in card.splits)
        yield f"{card.name:18}{card.num_classes:>7}  {samples:46}{found(card, root) if root else ''}".rstrip()
    if root is None:
        yield "name the folder of your data sets with --root or RAYSEG_DATA, and what is found in it is told here"


def details(card: Card, root: Path | None, recipes: Iterable[str]) -> Iterator[str]:
    """Tell of one card: licence, home, classes, where its files lie, the papers' crops, its recipes."""
    yield f"{card.name}: {card.title}"
    yield f"licence     {card.licence}"
    yield f"home        {card.home}"
    yield f"classes     {card.num_classes}, ignored {card.ignore_index}: {', '.join(card.class_names)}"
    for name, split in card.splits.items():
        place = f"{split.images}  {split.masks}" if split.images else " + ".join(split.of or ("drawn",))
        names = f"  named in {', '.join(split.lists)}" if split.lists else ""
        yield f"{name:11} {card.expected(name) or 'any number of'} samples: {place}{names}"
    if card.crops_px:
        yield "crops       " + ", ".join(f"{paper} {side}x{side}" for paper, side in card.crops_px.items())
    yield f"recipes     {', '.join(recipes) or 'none'}"
    if root is not None:
        yield f"found       {found(card, root)}"


def place(card: Card, root: Path) -> Path:
    """Give the card's folder below `root`, the folder of all data sets; `root` may also be that folder itself."""
    folder = card.folder or card.name
    return root if root.name == folder and not (root / folder).exists() else root / folder


def found(card: Card, root: Path) -> str:
    """Say how many pairs of each split lie in the card's folder below `root`, or what is missing there."""
    if card.generated is not None:
        return "drawn, needs no files"
    here = place(card, root)
    if not here.is_dir():
        return f"no folder {here.name}"
    said = pairs.survey(card, here)
    faults = [fault for fault in said.values() if isinstance(fault, str)]
    counts = [_counted(card, name, count) for name, count in said.items() if isinstance(count, int)]
    return ", ".join([*counts, *faults[:1]])


def _counted(card: Card, split: str, count: int) -> str:
    wanted = card.expected(split)
    return f"{split} {count}" + (f" of {wanted}" if wanted not in (None, count) else "")

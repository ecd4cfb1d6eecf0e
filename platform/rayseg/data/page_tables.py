"""The audit page's tables: classes and their shares, and what masks store that is no class."""

from __future__ import annotations

from collections.abc import Mapping

from rayseg.data.card import Card
from rayseg.data.charts import bar, percent, strip, swatch
from rayseg.data.index import Index, Ints
from rayseg.data.manifest import Manifest
from rayseg.data.markup import Markup, isolated, join, tag


def classes(card: Card, table: Index, splits: Mapping[str, Ints]) -> Markup:
    """Show the classes' shares of each split's pixels: to scale, and by logarithm."""
    pixels = {name: table.class_pixels[rows] for name, rows in splits.items()}
    strips = [(tag("span", isolated(name)), strip(_shares(counts), card)) for name, counts in pixels.items()]
    scale = tag("small", " 0.001 % … 100 %, each line ×10")
    head = tag("tr", tag("th", "class", colspan=2), [tag("th", isolated(name), scale, colspan=3) for name in pixels])
    rows = [_class_row(card, label, pixels) for label in range(card.num_classes + 1)]
    words = "Bars are logarithmic shares of pixels; the second number is how many samples have the class."
    return join(
        [
            tag("h2", "Classes"),
            tag("p", "Every pixel of a split, by class; hatched is ignored.", class_="soft"),
            tag("div", strips, class_="strips"),
            tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll"),
            tag("p", words, class_="soft"),
        ]
    )


def _class_row(card: Card, label: int, pixels: Mapping[str, Ints]) -> Markup:
    ignored = label == card.num_classes
    color = None if ignored else card.classes[label].color
    name = "ignored" if ignored else card.class_names[label]
    cells = [
        tag("td", card.ignore_index if ignored else label, class_="n"),
        tag("td", swatch(color), isolated(name), class_="name"),
    ]
    for counts in pixels.values():
        share, seen = _shares(counts)[label], float((counts[:, label] > 0).mean())
        never = not seen and not ignored
        cells.append(tag("td", bar(share, color)))
        cells.append(tag("td", "never" if never else percent(share), class_="n never" if never else "n"))
        cells.append(tag("td", f"in {percent(seen)}", class_="n soft"))
    return tag("tr", cells)


def unknown(whole: Manifest, table: Index) -> Markup:
    """Show values and colours that no class has; where there are none, nothing."""
    if not whole.unknown:
        return join([])
    words = "The card ignores these pixels. Is one of them a class that it forgot?"
    rows = []
    for split, found in whole.unknown.items():
        every = int(table.class_pixels[table.split == split].sum())
        rows += [_unknown_row(split, value, pixels, every) for value, pixels in found.items()]
    body = tag("div", tag("table", rows), class_="scroll")
    return join([tag("h2", "Stored in masks, but no class"), tag("p", words, class_="soft"), body])


def _unknown_row(split: str, value: str, pixels: int, every: int) -> Markup:
    red, green, blue, *_ = [int(part) for part in f"{value},0,0".split(",")]
    square = swatch((red, green, blue)) if "," in value else None
    numbers = [tag("td", f"{pixels:,} pixels", class_="n"), tag("td", percent(pixels / every), class_="n")]
    return tag("tr", tag("td", square, value), tag("td", isolated(split)), numbers)


def _shares(class_pixels: Ints) -> list[float]:
    found: list[float] = (class_pixels.sum(0) / class_pixels.sum()).tolist()
    return found

"""The audit page's pictures: samples, each class where it is largest, what is ignored most, what is there twice.

A picture carries its mask as a layer; three buttons, and the pointer, take one of both away. It needs no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rayseg.data import duplicates
from rayseg.data.card import Card
from rayseg.data.charts import percent, swatch
from rayseg.data.duplicates import Group
from rayseg.data.index import Index, Ints
from rayseg.data.markup import Markup, isolated, join, tag
from rayseg.data.pictures import Album

LOOKS = (("picture", None), ("both", ""), ("mask", None))
"""What of a picture is shown, and which of them at first."""
SHOWN = 8
"""Samples of each split, evenly spaced in the order of keys."""
MOST_GROUPS, MOST_TWINS, MOST_TOLD = 8, 4, 500
"""Of the pictures that are there more than once: how many are shown, how often, and how many are named."""
MOST_NAMED = 40
"""Of more classes, the table above is legend enough."""
_TALL, _SMALL = 240, 150


class Gallery:
    """The pictures of one folder."""

    def __init__(self, folder: Path, card: Card, table: Index, splits: Mapping[str, Ints]) -> None:
        self._card, self._table, self._splits = card, table, splits
        self._album = Album(folder, card, table)

    def samples(self) -> Markup:
        """Show some of each split."""
        switch = tag("div", [tag("label", look, for_=f"look-{look}") for look, _ in LOOKS], class_="switch")
        parts = [tag("h2", "Samples"), switch]
        parts.append(tag("p", "Point at a picture to see it without its mask.", class_="soft"))
        if self._card.num_classes <= MOST_NAMED:
            entries = [tag("span", swatch(spec.color), isolated(spec.name)) for spec in self._card.classes]
            parts.append(tag("div", entries, tag("span", swatch(None), "ignored"), class_="legend"))
        for name, rows in self._splits.items():
            chosen = rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)]
            parts.append(tag("p", tag("b", isolated(name)), class_="key"))
            parts.append(self._shots(chosen.tolist(), small=False))
        return join(parts)

    def largest(self) -> Markup:
        """Show each class in the sample where its share is largest: a mix-up of labels is seen at once."""
        words = "All but the class is darkened: what is lit should be what the name says."
        shots = [self._largest(label) for label in range(self._card.num_classes)]
        parts = [tag("h2", "Each class where it is largest"), tag("p", words, class_="soft")]
        return join([*parts, tag("div", shots, class_="gallery small only")])

    def _largest(self, label: int) -> Markup:
        pixels, table, spec = self._table.class_pixels, self._table, self._card.classes[label]
        shares = pixels[:, label] / pixels.sum(1)
        row = int(shares.argmax())
        name = [swatch(spec.color), tag("b", isolated(spec.name)), tag("br")]
        if not shares[row]:
            return tag("figure", tag("div", "never seen", class_="none"), tag("figcaption", name), style="--aspect:1")
        where = f"{percent(float(shares[row]))} of {table.split[row]}/{table.key[row]}"
        return self._shot(row, [*name, where], only=label)

    def most_ignored(self) -> Markup | None:
        """Show the sample of each split that counts least, where any of it is ignored."""
        pixels, worst = self._table.class_pixels, []
        for rows in self._splits.values():
            shares = pixels[rows, -1] / pixels[rows].sum(1)
            worst += [int(rows[shares.argmax()])] if shares.any() else []
        return self._shots(worst, words="most ignored: ") if worst else None

    def twice(self) -> Markup:
        """Show pictures that are there more than once; where there are none, nothing."""
        places = duplicates.by_place(duplicates.find(self._table))
        if not places:
            return join([])
        parts = [tag("h2", "Pictures that are there more than once")]
        parts.append(tag("p", "Equal to the last pixel, whatever the files are called.", class_="soft"))
        for place, groups in places.items():
            rest = "; ".join(duplicates.named(group, self._table) for group in groups[MOST_GROUPS:MOST_TOLD])
            untold = f"; {len(groups) - MOST_TOLD} more" if len(groups) > MOST_TOLD else ""
            where = f"within {place}" if len(groups[0].splits) == 1 else f"in both {place}"
            parts.append(tag("p", tag("b", f"{where}: {len(groups)}")))
            parts += [self._group(group) for group in groups[:MOST_GROUPS]]
            parts += [tag("p", f"and {rest}{untold}", class_="soft")] if rest else []
        return join(parts)

    def _group(self, group: Group) -> Markup:
        rows = list(dict.fromkeys([*duplicates.example(group, self._table), *group.rows]))
        words = f"{len(rows)} times{' · their masks differ' if group.masks_differ else ''}"
        return tag("div", tag("span", words, class_="soft"), self._shots(rows[:MOST_TWINS]), class_="group")

    def _shots(self, rows: Sequence[int], *, small: bool = True, words: str = "") -> Markup:
        shots = [self._shot(row, [words, *self._caption(row)], tall=_SMALL if small else _TALL) for row in rows]
        return tag("div", shots, class_="gallery small" if small else "gallery")

    def _caption(self, row: int) -> tuple[Markup, str]:
        table = self._table
        share = percent(float(table.class_pixels[row, -1] / table.class_pixels[row].sum()))
        name = tag("b", f"{table.split[row]}/{table.key[row]}")
        return name, f" {table.height[row]}x{table.width[row]}, {share} ignored"

    def _shot(self, row: int, caption: Iterable[object], *, tall: int = _SMALL, only: int | None = None) -> Markup:
        picture = self._album.picture(row, tall=tall, only=only)
        layers = [
            tag("img", src=url, alt="", class_=name, loading="lazy", width=picture.width, height=picture.height)
            for name, url in (("image", picture.image), ("mask", picture.mask))
        ]
        shot, style = tag("span", layers, class_="shot"), f"--aspect:{picture.width / picture.height:.3f}"
        return tag("figure", shot, tag("figcaption", list(caption)), style=style)

"""The audit page: `audit.html`, one file that shows what a folder of shards holds, to be looked at rather than read.

It is made of the shards and their index alone, so the same folder gives the same page; it has no script and fetches
nothing. Every text on it goes through `markup`, for titles, classes and keys are strangers' words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rayseg.data import audit, charts, page_style, page_tables
from rayseg.data.charts import percent
from rayseg.data.gallery import LOOKS, Gallery
from rayseg.data.index import Index
from rayseg.data.manifest import PAGE, Manifest, ShardFile
from rayseg.data.markup import Markup, isolated, join, link, tag

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Should a text become markup after all, the browser neither runs nor fetches it."""


def write(folder: Path, whole: Manifest, table: Index) -> ShardFile:
    """Write the page beside the shards and say how large it is and its hash."""
    data = render(folder, whole, table).encode("utf-8", "replace")
    (folder / PAGE).write_bytes(data)
    return ShardFile(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def render(folder: Path, whole: Manifest, table: Index) -> str:
    """Make the page's HTML."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{whole.card.name}: what is in it"),
        tag("style", Markup(page_style.CSS)),
    ]
    boxes = [
        tag("input", type="radio", name="look", id=f"look-{look}", class_="look", checked=on) for look, on in LOOKS
    ]
    body = tag("body", boxes, tag("main", list(_sections(folder, whole, table))))
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), body, lang='en')}\n"


def _sections(folder: Path, whole: Manifest, table: Index) -> Iterator[Markup]:
    stored = [name for name in whole.card.splits if name in whole.samples]
    splits = {name: np.flatnonzero(table.split == name) for name in stored}
    gallery = Gallery(folder, whole.card, table, splits)
    yield _header(whole, table, stored)
    yield _findings(whole, table)
    yield page_tables.classes(whole.card, table, splits)
    yield gallery.samples()
    yield gallery.largest()
    yield _shapes(table, stored, gallery)
    yield page_tables.unknown(whole, table)
    yield gallery.twice()
    how = f"coded as {whole.image} by {whole.encoder}" if whole.encoder else "kept as they were"
    yield tag("footer", f"Images {how}. Rows {whole.rows_sha256} · card {whole.card_sha256}")


def _header(whole: Manifest, table: Index, splits: list[str]) -> Markup:
    card = whole.card
    words = [isolated(card.name), " · ", isolated(card.licence), " · ", link(card.home)]
    tiles = [
        tag("div", _tile(whole, table, name), class_="tile", style=f"--hue:{charts.hue(i)}")
        for i, name in enumerate(splits)
    ]
    lines = [tag("h1", isolated(card.title)), tag("p", words, class_="soft"), tag("div", tiles, class_="tiles")]
    return tag("header", lines)


def _tile(whole: Manifest, table: Index, split: str) -> list[Markup]:
    rows, expected = table.where(table.split == split), whole.card.splits[split].expected
    files = [file.size for name, file in whole.shards.items() if name.rpartition("-")[0] == split]
    lines = [
        f"of {expected} expected" if expected not in (None, len(rows)) else "",
        f"{sum(files) / 2**20:.1f} MiB in {len(files)} shard{'s' * (len(files) > 1)}",
        _sizes_in_words(charts.sizes(rows)),
        f"{percent(rows.class_pixels[:, -1].sum() / rows.class_pixels.sum())} of the pixels ignored",
    ]
    return [isolated(split), tag("b", f"{len(rows):,}"), *(tag("small", line) for line in lines if line)]


def _sizes_in_words(found: charts.Sizes) -> str:
    if len(found) == 1:
        return "all {}x{} pixels".format(*next(iter(found)))
    least, *_, most = sorted(found, key=lambda size: size[0] * size[1])
    return f"{len(found)} sizes, {least[0]}x{least[1]} to {most[0]}x{most[1]}"


def _findings(whole: Manifest, table: Index) -> Markup:
    said = audit.warnings(table, whole.card, whole.samples)
    items = [tag("li", isolated(line)) for line in said] or [tag("li", "Nothing odd was found.", class_="good")]
    return join([tag("h2", "What to look at"), tag("ul", items, class_="findings")])


def _shapes(table: Index, splits: list[str], gallery: Gallery) -> Markup:
    parts, key = [table.where(table.split == name) for name in splits], charts.key_of(splits)
    ignored = {
        name: rows.class_pixels[:, -1] / rows.class_pixels.sum(1) for name, rows in zip(splits, parts, strict=True)
    }
    said = tag("p", "How many samples have how much ignored (heights by their root).", class_="soft")
    panels = [tag("div", said, key, charts.histogram(ignored), gallery.most_ignored())]
    sizes = {name: charts.sizes(rows) for name, rows in zip(splits, parts, strict=True)}
    if len({size for found in sizes.values() for size in found}) > 1:
        said = tag("p", "Height (up) and width in pixels; a larger disc is more samples.", class_="soft")
        panels.append(tag("div", said, key, charts.bubbles(sizes)))
    return join([tag("h2", "Ignored pixels and sizes"), tag("div", panels, class_="side")])

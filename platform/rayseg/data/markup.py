"""Markup: HTML and SVG made of tags, where every text and every attribute is escaped unless a tag made it.

Names of files, classes and data sets come from strangers; here they cannot become markup, whoever calls.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = {"img", "input", "meta", "br"}


class Markup(str):
    """Text that is markup already. Only this file makes it of anything but constants."""


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """Make an element of what it holds: markup, text, or lists of both; `class_` stands for `class`, `_` for `-`."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"')
    if name in _VOID:
        return Markup(f"<{' '.join(words)}>")
    return Markup(f"<{' '.join(words)}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Markup:
    """Put parts after one another."""
    return Markup("".join(_flat(part) for part in content))


def isolated(text: object) -> Markup:
    """Show a stranger's text so that its own writing direction ends with it."""
    return tag("bdi", str(text))


def link(url: str) -> Markup:
    """Link to a web page; what is no http(s) address is shown as text."""
    if url.startswith(("https://", "http://")):
        return tag("a", isolated(url.partition("://")[2]), href=url, rel="noopener noreferrer")
    return isolated(url)


def _flat(part: object) -> str:
    if isinstance(part, Markup):
        return part
    if isinstance(part, (list, tuple)):
        return join(part)
    return "" if part is None else _escaped(str(part))


def _escaped(text: str) -> str:
    """Escape; a control character, which HTML has no way to write, becomes a replacement character."""
    kept = "".join(c if c.isprintable() or c in " \n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(kept, quote=True)

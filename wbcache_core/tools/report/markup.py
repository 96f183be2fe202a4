# SPDX-License-Identifier: BSD-3-Clause
"""Makes HTML and SVG. Whatever is not Markup is text, and is escaped: names can have any characters."""

from html import escape

from wbcache_core.tools.standard_streams import printable

_VOID = ("meta", "link")


class Markup(str):
    """What is HTML already."""


def _escaped(value: object) -> str:
    """So that exactly its characters are shown, and escapes for what cannot be shown."""
    return escape(printable(str(value)))


def text(value: object) -> Markup:
    """As it is if it is Markup, otherwise escaped."""
    return value if isinstance(value, Markup) else Markup(_escaped(value))


def join(*content: object) -> Markup:
    """One after another."""
    return Markup("".join(map(text, content)))


def element(tag: str, /, *content: object, **attributes: object) -> Markup:
    """`element("a", "text", href="x", class_="y")`. Underscores in names of attributes are hyphens; None is left
    out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{words}>" if tag in _VOID else f"<{tag}{words}>{join(*content)}</{tag}>")

# SPDX-License-Identifier: BSD-3-Clause
"""The parts that every report has: the page itself, tiles, findings and tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from wbcache_core import __version__
from wbcache_core.tools.report.markup import Markup, element, join
from wbcache_core.tools.report.style import STYLE

ACT, WATCH, GOOD = "act", "watch", "good"
_WORDS = {ACT: "Act", WATCH: "Look", GOOD: "Good"}


class Finding(NamedTuple):
    """Something that needs attention, or that nothing does: how urgent, what, and what to do."""

    urgency: str
    what: str
    advice: str


class Tile(NamedTuple):
    """A number with its name, and what it means."""

    name: str
    value: str
    meaning: str


def page(title: str, about: str, findings: Sequence[Finding], sections: Iterable[Markup]) -> str:
    """The whole document. It loads nothing, and runs nothing."""
    now = datetime.now(timezone.utc)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element(
        "main",
        element("h1", title),
        element("p", about, class_="soft"),
        _findings(findings),
        *sections,
        element("footer", f"Made by wbcache {__version__}, {now:%Y-%m-%d %H:%M:%S} UTC. All times are UTC."),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', body), lang='en')}\n"


def _findings(findings: Sequence[Finding]) -> Markup:
    return element(
        "ul",
        *(
            element(
                "li",
                element("b", _WORDS[one.urgency]),
                one.what,
                element("p", one.advice) if one.advice else "",
                class_=one.urgency,
            )
            for one in findings
        ),
        class_="findings",
    )


def section(title: str, introduction: str, *content: object) -> Markup:
    """With a heading and a sentence or two on what follows."""
    return element("section", element("h2", title), element("p", introduction, class_="note"), *content)


def tiles(found: Iterable[Tile]) -> Markup:
    """Numbers side by side."""
    return element(
        "div",
        *(
            element("div", element("span", one.name), element("b", one.value), element("p", one.meaning), class_="tile")
            for one in found
        ),
        class_="tiles",
    )


def charts(*figures: Markup) -> Markup:
    """Side by side where there is room."""
    return element("div", *figures, class_="charts")


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = (), changed: Sequence[int] = ()
) -> Markup:
    """Without heads if there are none. `numbers` are columns to align at the right, and `changed` rows to show in
    bold."""

    def cells(kind: str, row: Sequence[object]) -> Markup:
        return join(*(element(kind, cell, class_="number" if at in numbers else None) for at, cell in enumerate(row)))

    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", cells("th", heads))) if heads else "",
            element(
                "tbody",
                *(
                    element("tr", cells("td", row), class_="changed" if at in changed else None)
                    for at, row in enumerate(rows)
                ),
            ),
        ),
        class_="card scroll",
    )

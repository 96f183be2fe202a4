# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a log in a page: time on the x axis, the volume on the y axis, and how much was written."""

import base64
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from wbcache_core.tools.log_facts import LogFacts, unit_of
from wbcache_core.tools.report.charts import figure
from wbcache_core.tools.report.markup import Markup, element, join
from wbcache_core.tools.scales import clock_ticks, linear
from wbcache_core.units import PAGE_SHIFT

_WIDTH, _HEIGHT = 1040, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 12, 44, 28
_INNER, _DEPTH = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_BLUE, _ORANGE = (31, 111, 191), (222, 131, 40)
_FAINTEST = 70
"""Of 255: so that a single page is still to be seen, on a light and on a dark page."""
_MOST_TAGS = 12


def log_picture(facts: LogFacts) -> Markup:
    """With the moments that can be opened, the tags, and where the origin is."""
    began, seconds = _moment(facts.start_ns), (facts.end_ns - facts.start_ns) / 1e9
    density = facts.density
    most = max(max(map(max, density.written)), 1)
    rows = [
        [_pixel(written, cleared, most) for written, cleared in zip(*pair, strict=True)]
        for pair in zip(reversed(density.written), reversed(density.cleared), strict=True)
    ]
    source = "data:image/png;base64," + base64.b64encode(png(rows)).decode()
    image = element(
        "image",
        href=source,
        x=_LEFT,
        y=_TOP,
        width=_INNER,
        height=_DEPTH,
        preserveAspectRatio="none",
        class_="density",
    )

    def x(time_ns: int) -> float:
        return _LEFT + (time_ns - facts.start_ns) / (facts.end_ns - facts.start_ns) * _INNER

    ticks = [
        element(
            "text",
            label,
            x=f"{_LEFT + (moment - began).total_seconds() / seconds * _INNER:.1f}",
            y=_HEIGHT - 8,
            class_="x",
        )
        for moment, label in clock_ticks(began, _moment(facts.end_ns))
    ]
    svg = element(
        "svg",
        element("rect", x=_LEFT, y=_TOP, width=_INNER, height=_DEPTH, class_="frame"),
        image,
        *_places(facts),
        *ticks,
        *_strip(facts, x),
        *_lines(facts, x),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label="what was written where and when",
    )
    return figure("What was written where and when", join(element("div", svg, class_="wide"), _legend(facts)), _NOTE)


_NOTE = (
    "Each spot is a part of the volume at a time; the stronger its colour, the more was written there. A horizontal "
    "line is one place that is written again and again; a slope is something that is written from beginning to end."
)


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc)


def _pixel(written: int, cleared: int, most: int) -> tuple[int, int, int, int]:
    if written:
        strength = math.log(written) / math.log(most) if most > 1 else 1.0
        return *_BLUE, _FAINTEST + round((255 - _FAINTEST) * strength)
    return (*_ORANGE, 150) if cleared else (0, 0, 0, 0)


def png(rows: Sequence[Sequence[tuple[int, int, int, int]]]) -> bytes:
    """An image of pixels of red, green, blue and opacity, from the top."""
    data = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def _places(facts: LogFacts) -> list[Markup]:
    start, end = facts.blocks.start << PAGE_SHIFT, facts.blocks.stop << PAGE_SHIFT
    unit, name = unit_of(end)
    step = linear(end - start, in_bytes=True)[1]
    found = []
    place = math.ceil(start / step) * step
    while place <= end:
        y = _TOP + (1 - (place - start) / (end - start)) * _DEPTH
        found.append(element("text", f"{place / unit:g} {name}", x=_LEFT - 6, y=f"{y + 4:.1f}", class_="y"))
        place += step
    return found


def _strip(facts: LogFacts, x: Callable[[int], float]) -> list[Markup]:
    """What can be opened, as a bar above the picture, and the tags."""
    found = []
    if facts.window:
        start, end = map(x, facts.window)
        found.append(
            element(
                "rect",
                element("title", "can be opened"),
                x=f"{start:.1f}",
                y=_TOP - 12,
                width=f"{max(end - start, 3):.1f}",
                height=8,
                rx=2,
                class_="window",
            )
        )
    taken = -math.inf
    for name, time_ns in facts.tags[:_MOST_TAGS]:
        at = x(time_ns)
        found.append(
            element(
                "line",
                element("title", name),
                x1=f"{at:.1f}",
                x2=f"{at:.1f}",
                y1=_TOP - 16,
                y2=_TOP + _DEPTH,
                class_="tag",
            )
        )
        label = name if len(name) <= 20 else f"{name[:19]}\N{HORIZONTAL ELLIPSIS}"
        left = min(at, _WIDTH - 9 * len(label))
        if left > taken:
            found.append(element("text", label, x=f"{left:.1f}", y=_TOP - 20, class_="tag"))
            taken = left + 9 * len(label)
    return found


def _lines(facts: LogFacts, x: Callable[[int], float]) -> list[Markup]:
    return [
        element(
            "line", x1=f"{x(time_ns):.1f}", x2=f"{x(time_ns):.1f}", y1=_TOP, y2=_TOP + _DEPTH, class_=f"cursor {name}"
        )
        for name, time_ns in facts.cursors.items()
    ]


def _legend(facts: LogFacts) -> Markup:
    names = {
        "density-written": "written",
        "density-cleared": "trimmed or zeroed",
        "window": "can be opened" if facts.window else "",
        "tag": "tag" if facts.tags else "",
        "cursor": "the origin is here",
    }
    return element(
        "p",
        *(element("span", element("i", class_=f"swatch {name}"), label) for name, label in names.items() if label),
        class_="legend",
    )

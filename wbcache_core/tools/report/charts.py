# SPDX-License-Identifier: BSD-3-Clause
"""Charts as SVG: lines over time, histograms, and a bar of parts."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from wbcache_core.counters import bucket_seconds
from wbcache_core.tools.report.markup import Markup, element, join
from wbcache_core.tools.scales import clock_ticks, count, decades, duration, linear

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 10, 10, 24
_INNER, _DEPTH = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_CHARACTER = 7
"""About how wide one is."""


class Step(NamedTuple):
    """A value that holds from one time to another, in seconds."""

    start: float
    end: float
    value: float


class Line(NamedTuple):
    """`colour` is the name of one in the style sheet."""

    name: str
    colour: str
    steps: list[Step]


class Span(NamedTuple):
    """What the x axis shows: from `began` on, so many seconds."""

    began: datetime
    seconds: float

    @property
    def end(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds)


def _svg(label: str, height: int, *content: object) -> Markup:
    return element("svg", *content, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def legend(lines: Sequence[Line]) -> Markup:
    """The names, each with its colour."""
    return element(
        "p",
        *(element("span", element("i", class_=f"swatch {line.colour}"), line.name) for line in lines),
        class_="legend",
    )


def figure(title: str, body: object, note: object = "") -> Markup:
    """A chart with its heading, and what it means."""
    return element("figure", element("figcaption", title), body, element("p", note, class_="note") if note else "")


def over_time(
    title: str,
    span: Span,
    lines: Sequence[Line],
    shown: Callable[[float], str],
    in_bytes: bool = False,
    logarithmic: bool = False,
    note: object = "",
) -> Markup:
    """One or more lines. With a logarithmic scale, values of 0 leave gaps."""
    values = [step.value for line in lines for step in line.steps if step.value > 0 or not logarithmic]
    if not any(values):
        return figure(title, element("p", "Nothing yet.", class_="empty"), note)
    if logarithmic:
        ticks = decades(min(values), max(values))
        low, high = math.log10(ticks[0]), math.log10(ticks[-1])

        def height(value: float) -> float:
            return (math.log10(value) - low) / (high - low)
    else:
        ticks = linear(max(values), in_bytes)

        def height(value: float) -> float:
            return value / ticks[-1]

    def x(seconds: float) -> str:
        return _number(_LEFT + seconds / max(span.seconds, 1e-9) * _INNER)

    def y(value: float) -> str:
        return _number(_TOP + (1 - height(value)) * _DEPTH)

    grid = [
        join(
            element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid"),
            element("text", shown(tick), x=_LEFT - 6, y=float(y(tick)) + 4, class_="y"),
        )
        for tick in ticks
    ]
    drawn = [
        element(
            "path",
            d=_path([step for step in line.steps if step.value > 0 or not logarithmic], x, y),
            class_=f"line {line.colour}",
        )
        for line in lines
    ]
    svg = _svg(title, _HEIGHT, *grid, *_time_axis(span, x, _HEIGHT), *drawn)
    return figure(title, join(svg, legend(lines)), note)


def _path(steps: Sequence[Step], x: Callable[[float], str], y: Callable[[float], str]) -> str:
    words, end = [], None
    for step in steps:
        words.append(f"V{y(step.value)}" if step.start == end else f"M{x(step.start)} {y(step.value)}")
        words.append(f"H{x(step.end)}")
        end = step.end
    return "".join(words)


def _time_axis(span: Span, x: Callable[[float], str], height: int) -> list[Markup]:
    labels = []
    last = -math.inf
    for moment, label in clock_ticks(span.began, span.end):
        at = float(x((moment - span.began).total_seconds()))
        half = len(label) * _CHARACTER / 2
        # Neither over the one before nor out of the picture.
        at = min(max(at, half), _WIDTH - half)
        if at - half > last:
            labels.append(element("text", label, x=_number(at), y=height - 6, class_="x"))
            last = at + half + _CHARACTER
    return labels


def histogram(title: str, counts: Sequence[int], marks: Sequence[tuple[str, float]], note: object) -> Markup:
    """Bars by bucket of counters.Histogram, from the first that has any to the last; `marks` are names and seconds."""
    used = [index for index, number in enumerate(counts) if number]
    if not used:
        return figure(title, element("p", "None yet.", class_="empty"), note)
    first, last = max(used[0] - 1, 0), min(used[-1] + 1, len(counts) - 1)
    wide, most = _INNER / (last - first + 1), max(counts)
    bars = []
    for index in range(first, last + 1):
        tall = counts[index] / most * _DEPTH
        range_ = _bucket(index, len(counts))
        bars.append(
            element(
                "rect",
                element("title", f"{count(counts[index])}: {range_}"),
                x=_number(_LEFT + (index - first) * wide + 1),
                y=_number(_TOP + _DEPTH - tall),
                width=_number(max(wide - 2, 1)),
                height=_number(tall),
                rx=2,
                class_="bar",
            )
        )
    ticks = linear(most, in_bytes=False)
    grid = [
        element("text", count(tick), x=_LEFT - 6, y=_number(_TOP + (1 - tick / most) * _DEPTH + 4), class_="y")
        for tick in ticks
        if tick <= most
    ]
    every = math.ceil((last - first) * 9 * _CHARACTER / _INNER)
    labels = [
        element(
            "text",
            duration(bucket_seconds(index)),
            x=_number(_LEFT + (index - first + 1) * wide),
            y=_HEIGHT - 6,
            class_="x",
        )
        for index in range(first, min(last, len(counts) - 2))
        if (index - first) % every == 0
    ]
    return figure(title, join(_svg(title, _HEIGHT, *grid, *bars, *labels), _marks(marks)), note)


def _bucket(index: int, buckets: int) -> str:
    start = duration(bucket_seconds(index - 1)) if index else "0 s"
    return f"longer than {start}" if index == buckets - 1 else f"{start} to {duration(bucket_seconds(index))}"


def _marks(marks: Sequence[tuple[str, float]]) -> Markup:
    return element(
        "p", *(element("span", element("b", duration(value)), f" {name}") for name, value in marks), class_="legend"
    )


class Part(NamedTuple):
    """Of a bar."""

    name: str
    colour: str
    amount: float


def bar(title: str, parts: Sequence[Part], shown: Callable[[float], str]) -> Markup:
    """Parts of a whole side by side, and their names."""
    whole = sum(part.amount for part in parts)
    if not whole:
        return figure(title, element("p", "Nothing yet.", class_="empty"))
    pieces = [
        element(
            "span",
            class_=part.colour,
            style=f"flex-grow:{part.amount / whole:.6f}",
            title=f"{part.name}: {shown(part.amount)}",
        )
        for part in parts
        if part.amount
    ]
    names = [
        element(
            "span",
            element("i", class_=f"swatch {part.colour}"),
            f"{part.name} ",
            element("b", shown(part.amount)),
            f" ({part.amount / whole:.0%})",
        )
        for part in parts
    ]
    return figure(
        title,
        join(
            element("div", *pieces, class_="parts", role="img", aria_label=title),
            element("p", *names, class_="legend"),
        ),
    )

# SPDX-License-Identifier: BSD-3-Clause
"""What was written in the time that the log covers, and its moments: the same for a server and for a log."""

from datetime import datetime
from typing import Any

from wbcache_core.server.history import Facts
from wbcache_core.tools.report.charts import Line, Span, Step, over_time
from wbcache_core.tools.report.markup import Markup, element
from wbcache_core.tools.report.page import charts, section, table
from wbcache_core.tools.scales import count, duration, rate

ROWS = 120
"""So many groups of generations are asked for."""


def _seconds(begun: str, time: str) -> float:
    return (datetime.fromisoformat(time) - datetime.fromisoformat(begun)).total_seconds()


def past_section(history: Facts, *pictures: Markup) -> Markup:
    """`history` is the answer to history."""
    window = history["window"]
    if window is None:
        return section("The past", "No past moment can be opened.", *pictures)
    ends = window["oldest"], window["newest"]
    span = _seconds(ends[0]["time"], ends[1]["time"])
    text = (
        f"The log covers {count(window['generations'])} moments (each commit is one), from {_short(ends[0]['time'])} "
        f"to {_short(ends[1]['time'])}, {duration(max(span, 0.0))}. Each can be opened as the export @N, and lasts "
        "until its data goes to the origin; a tag, or history=, keeps it."
    )
    return section("The past that can be opened", text, *pictures, *_rates(history, span), *_tags(history["tags"]))


def _rates(history: Facts, span: float) -> list[Markup]:
    rows = history["rows"]
    if span <= 0 or len(rows) < 2:
        return []
    begun = rows[0]["end"]
    steps: dict[str, list[Step]] = {"written_bytes": [], "cleared_bytes": []}
    at = 0.0
    for row in rows[1:]:
        # If the clock was set back, there is no time in which it was written.
        start, at = at, max(_seconds(begun, row["end"]), at)
        if at > start:
            for name, found in steps.items():
                found.append(Step(start, at, row[name] / (at - start)))
    lines = [
        Line("written", "blue", steps["written_bytes"]),
        Line("trimmed or zeroed", "orange", steps["cleared_bytes"]),
    ]
    return [
        charts(
            over_time(
                "Written by clients, by time",
                Span(datetime.fromisoformat(begun), max(span, at)),
                lines,
                rate,
                in_bytes=True,
                note="What was written several times counts each time. Only what the log still covers is shown.",
            )
        )
    ]


def _tags(tags: list[dict[str, Any]]) -> list[Markup]:
    if not tags:
        return []
    rows = [[tag["name"], tag["generation"], _short(tag["time"])] for tag in tags]
    return [element("h3", "Tags"), table(["Name", "Generation", "Time"], rows, numbers=[1])]


def _short(time: str) -> str:
    """To the second, without the T."""
    return time.partition(".")[0].replace("T", " ").removesuffix("Z").partition("+")[0]

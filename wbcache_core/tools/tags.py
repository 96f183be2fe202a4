# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache tag`, `untag`, `resolve` and `history`: of a running server through its control socket,
otherwise of the log itself.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import RANGE, parse
from wbcache_core.server import history
from wbcache_core.server.control.client import ask, is_socket
from wbcache_core.tools import offline_tags
from wbcache_core.units import format_size

Facts: TypeAlias = dict[str, Any]

_NS = 10**9


def run_tag(target: str, name: str, when: str | None) -> int:
    """Returns the exit status. Raises WbcacheError."""
    if is_socket(target):
        given = ask(target, "tag", name=name, **({"when": when} if when is not None else {}))["tag"]
    else:
        given = history.moment(Generation.of(offline_tags.tag(target, name, when)))
    print(f"tag '{name}': generation {given['generation']} ({given['time']})")
    return 0


def run_untag(target: str, name: str) -> int:
    """Returns the exit status. Raises WbcacheError."""
    if is_socket(target):
        ask(target, "untag", name=name)
    else:
        offline_tags.untag(target, name)
    print(f"tag '{name}' is removed")
    return 0


def run_resolve(target: str, when: str) -> int:
    """Print the export that a moment, or A..B, means now; returns the exit status. Raises WbcacheError."""
    if is_socket(target):
        answer = ask(target, "resolve", when=when)
        numbers = [one["generation"] for one in (answer.get("since"), answer["moment"]) if one]
    else:
        numbers = [one.number for one in offline_tags.resolved(target, when)]
    print("@" + RANGE.join(map(str, numbers)))
    return 0


def run_history(target: str, limit: int, each: bool, as_json: bool) -> int:
    """Print it; returns the exit status. Raises WbcacheError."""
    facts = _gather(target, limit, each)
    print(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))
    return 0


def _gather(target: str, limit: int, each: bool) -> Facts:
    """One answer, or with `each` all of them combined."""

    def following(before: Facts | None) -> history.Query | None:
        if before is None:
            return history.Query(history.MOST_ROWS if each else limit, each)
        start = before["next"]
        return history.Query(history.MOST_ROWS, True, start) if each and start is not None else None

    if is_socket(target):
        found: list[Facts] = []
        while query := following(found[-1] if found else None):
            found.append(ask(target, "history", **{"limit": query.limit, "each": query.each, "from": query.start}))
    else:
        found = offline_tags.read_history(target, following)
    # The newest answer has the window as it is now.
    return {**found[-1], "rows": [row for facts in found for row in facts["rows"]]}


def _lines(facts: Facts) -> Iterator[str]:
    window = facts["window"]
    if window is None:
        yield "the log covers no generation yet"
        return
    oldest, newest = window["oldest"], window["newest"]
    # The clock may have been set back meanwhile.
    seconds = max(parse(newest["time"]) - parse(oldest["time"]), 0) // _NS
    yield f"window  generation {oldest['generation']} ({oldest['time']}) to {newest['generation']} ({newest['time']})"
    yield f"        {window['generations']} generations in {_duration(seconds)}{_written(facts['rows'])}"
    yield from _tag_lines(facts["tags"])
    yield ""
    rows = [("from", "to", "generations", "written", "cleared", "tags"), *map(_cells, facts["rows"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        times = f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}"
        yield f"{times}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]:>{widths[4]}}  {row[5]}".rstrip()


def _tag_lines(tags: list[Facts]) -> Iterator[str]:
    for label, tag in zip(["tags", *[""] * len(tags)], tags, strict=False):
        yield f"{label:<7} '{tag['name']}' is generation {tag['generation']} ({tag['time']})"


def _written(rows: list[Facts]) -> str:
    written, cleared = (sum(row[kind] or 0 for row in rows) for kind in ("written_bytes", "cleared_bytes"))
    return f", {format_size(written)} written and {format_size(cleared)} trimmed or zeroed"


def _cells(row: Facts) -> tuple[str, ...]:
    """The rows of the table. Times of single generations can be used as a WHEN."""
    first, last = row["first"], row["last"]
    numbers = str(first) if first == last else f"{first} to {last}"
    until = "" if first == last else row["end"]
    sizes = (format_size(row[kind]) if row[kind] else "-" for kind in ("written_bytes", "cleared_bytes"))
    return row["begin"], until, numbers, *sizes, ", ".join(row["tags"])


def _duration(seconds: int) -> str:
    """`1 d 2 h`: the two largest units."""
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])

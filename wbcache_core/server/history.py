# SPDX-License-Identifier: BSD-3-Clause
"""The generations in the window by time, what was written in each, and the tags: a few lines, however many there are.

choose() is short and needs the volume lock held; describe() walks the records and needs no lock.
"""

from typing import Any, NamedTuple, TypeAlias

from wbcache_core.errors import ConfigError
from wbcache_core.format.superblock import Tag
from wbcache_core.memory.generations import Generation, Generations
from wbcache_core.memory.moments import iso
from wbcache_core.memory.record_index import CoveredLog, Records, Tally
from wbcache_core.units import PAGE_SHIFT

Facts: TypeAlias = dict[str, Any]
"""What a running server says, ready for JSON."""
_Span: TypeAlias = tuple[Generation, Generation]

DEFAULT_ROWS, MOST_GROUPS, MOST_ROWS = 40, 200, 500
_NS = 10**9
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WIDTHS = (
    1, 2, 5, 10, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR,
    3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 364 * _DAY, 3640 * _DAY,
    364000 * _DAY,
)  # fmt: skip
"""Seconds that a group of generations may span; with the last one everything is in one or two groups."""


class Query(NamedTuple):
    """At most `limit` rows after that of the oldest generation; with `each`, a row for every generation from number
    `start` on."""

    limit: int = DEFAULT_ROWS
    each: bool = False
    start: int = 0

    def check(self) -> None:
        """Raises ConfigError."""
        most = MOST_ROWS if self.each else MOST_GROUPS
        if not 1 <= self.limit <= most:
            raise ConfigError(f"the number of rows has to be from 1 to {most}")


class Choice(NamedTuple):
    """What choose() found: each row covers what follows `before`, up to its second generation."""

    oldest: Generation
    newest: Generation
    generation_count: int
    spans: list[_Span]
    before: Generation | None
    """The generation before the first span; None if that is the oldest one, for which no changes are known."""
    group_seconds: int
    """0 if each generation has its own row."""
    following: int | None
    """Where the rows of `each` continue."""
    records: Records


def choose(covered: CoveredLog, query: Query, shown: Generation | None = None) -> Choice | None:
    """The rows, up to the generation `shown`, if given; None if the window is empty. Takes time linear in their number.
    Volume lock held."""
    generations = covered.generations
    oldest, newest = generations.oldest, shown or generations.newest
    if oldest is None or newest is None:
        return None
    count = newest.number - oldest.number + 1
    records = covered.records.between(oldest.end_lsn, newest.end_lsn)
    before, following, width = None, None, 0
    if query.each or count <= query.limit + 1:
        start = max(query.start, oldest.number) if query.each else oldest.number
        end = min(start + query.limit - 1, newest.number) if query.each else newest.number
        spans = [(one, one) for number in range(start, end + 1) if (one := generations.numbered(number))]
        before = generations.numbered(start - 1)
        following = end + 1 if end < newest.number else None
    else:
        width, spans = _grouped(generations, oldest, query.limit)
        spans = [(first, min(last, newest)) for first, last in spans if first.number <= newest.number]
        spans.insert(0, (oldest, oldest))
    return Choice(oldest, newest, count, spans, before, width, following, records)


def _grouped(generations: Generations, oldest: Generation, limit: int) -> tuple[int, list[_Span]]:
    """The generations after the oldest, in groups of equal time, the smallest with which there are not too many
    groups."""
    low, high = 0, len(_WIDTHS) - 1
    while low < high:
        middle = (low + high) // 2
        if len(_spans(generations, oldest, _WIDTHS[middle], limit)) > limit:
            low = middle + 1
        else:
            high = middle
    spans = _spans(generations, oldest, _WIDTHS[low], limit)
    if len(spans) > limit:
        # The clock was set back more often than rows are allowed.
        spans = _by_number(generations, oldest, limit)
    return _WIDTHS[low], spans


def _by_number(generations: Generations, oldest: Generation, limit: int) -> list[_Span]:
    """Groups with the same number of generations each."""
    count = -(-(len(generations) - 1) // limit)
    starts = range(1, len(generations), count)
    return [(generations.at(start), generations.at(min(start + count, len(generations)) - 1)) for start in starts]


def _spans(generations: Generations, oldest: Generation, seconds: int, limit: int) -> list[_Span]:
    """Groups of that width, which begin at whole multiples of it or where the clock was set back; at most one more than
    the limit."""
    spans: list[_Span] = []
    width_ns = seconds * _NS
    first = generations.numbered(oldest.number + 1)
    while first and len(spans) <= limit:
        last = generations.last_in_group(first, first.time_ns // width_ns * width_ns + width_ns - 1)
        spans.append((first, last))
        first = generations.numbered(last.number + 1)
    return spans


def describe(choice: Choice | None, tags: tuple[Tag, ...]) -> Facts:
    """Ready for JSON; docs/control-socket.md names the fields."""
    named = [{"name": tag.name, **moment(Generation.of(tag))} for tag in tags]
    if choice is None:
        return {"window": None, "tags": named, "group_seconds": None, "rows": [], "next": None}
    return {
        "window": window(choice.oldest, choice.newest, choice.generation_count),
        "tags": named,
        "group_seconds": choice.group_seconds or None,
        "rows": _rows(choice, tags),
        "next": choice.following,
    }


def window(oldest: Generation, newest: Generation, count: int) -> Facts:
    """The window in JSON."""
    return {"oldest": moment(oldest), "newest": moment(newest), "generations": count}


def moment(generation: Generation) -> Facts:
    """A generation in JSON."""
    return {"generation": generation.number, "time": iso(generation.time_ns), "end_lsn": generation.end_lsn}


def _rows(choice: Choice, tags: tuple[Tag, ...]) -> list[Facts]:
    ends = [last.end_lsn for _, last in choice.spans]
    if choice.before:
        ends.insert(0, choice.before.end_lsn)
    tallies: list[Tally | None] = [*choice.records.tallies(ends)]
    if not choice.before and choice.spans:
        # What came before the oldest generation is on the origin, and can no longer be told apart.
        tallies.insert(0, None)
    return [_row(span, tally, tags) for span, tally in zip(choice.spans, tallies, strict=True)]


def _row(span: _Span, tally: Tally | None, tags: tuple[Tag, ...]) -> Facts:
    first, last = span
    return {
        "first": first.number,
        "last": last.number,
        "begin": iso(first.time_ns),
        "end": iso(last.time_ns),
        "end_lsn": last.end_lsn,
        "written_bytes": tally.pages << PAGE_SHIFT if tally else None,
        "cleared_bytes": tally.cleared_blocks << PAGE_SHIFT if tally else None,
        "tags": [tag.name for tag in tags if first.number <= tag.generation <= last.number],
    }

# SPDX-License-Identifier: BSD-3-Clause
"""The history in rows: none is lost, none counts twice, and they are never too many; against a plain count."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.clock import Reading
from wbcache_core.errors import ConfigError
from wbcache_core.format.segment import KIND_SHIFT, TRIM, ZERO
from wbcache_core.format.superblock import Tag
from wbcache_core.memory.moments import parse
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.server.history import MOST_GROUPS, MOST_ROWS, Query, choose, describe

NS = 10**9
PAGE = 4096

SEGMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(1, 9), max_size=2)).filter(any), min_size=1, max_size=3
)
"""Of one generation: (pages, lengths of ranges) each."""
STEPS = st.lists(
    st.tuples(SEGMENTS, st.sampled_from((2, NS // 3, NS, 90 * NS, 86400 * NS))), min_size=1, max_size=40
)


def made(steps, first=3):
    """A covered log and, a generation each, (number, time, pages, cleared blocks)."""
    covered = CoveredLog(1 << 30)
    lsn, time_ns, plain = 1, 1_700_000_000 * NS, []
    covered.generations.append(first - 1, lsn, Reading(time_ns))
    for number, (segments, ns) in enumerate(steps, first):
        time_ns += ns
        pages = cleared = 0
        for page_count, ranges in segments:
            entry_words = [*range(page_count), *((TRIM if one % 2 else ZERO) << KIND_SHIFT | 100 for one in ranges)]
            covered.records.append(lsn, page_count, entry_words, [7] * page_count + ranges)
            lsn += 1 + page_count
            covered.generations.append(number, lsn, Reading(time_ns))
            pages, cleared = pages + page_count, cleared + sum(ranges)
        plain.append((number, time_ns, pages, cleared))
    return covered, plain


@given(STEPS, st.integers(1, 12), st.integers(0, 20))
def test_rows_cover_every_generation_once(steps, limit, dropped):
    covered, plain = made(steps)
    kept = plain[min(dropped, len(plain) - 1) :]
    oldest = kept[0][0] - 1
    covered.generations.drop_below(covered.generations.numbered(oldest).end_lsn)
    tags = (Tag("one", *covered.generations.newest),)
    facts = describe(choose(covered, Query(limit)), tags)
    rows = facts["rows"]
    assert len(rows) <= limit + 1 and rows[0]["first"] == rows[0]["last"] == oldest
    assert rows[0]["written_bytes"] is None and facts["next"] is None
    assert (facts["group_seconds"] is None) == (len(kept) <= limit)
    assert [number for row in rows for number in range(row["first"], row["last"] + 1)] == [
        oldest, *(number for number, *_ in kept)
    ]  # fmt: skip
    for row in rows[1:]:
        mine = [one for one in kept if row["first"] <= one[0] <= row["last"]]
        assert row["written_bytes"] == PAGE * sum(pages for *_, pages, _ in mine)
        assert row["cleared_bytes"] == PAGE * sum(cleared for *_, cleared in mine)
        assert parse(row["begin"]) == mine[0][1] // 1000 * 1000 and parse(row["end"]) == mine[-1][1] // 1000 * 1000
        if facts["group_seconds"]:
            width = facts["group_seconds"] * NS
            assert mine[0][1] // width == mine[-1][1] // width
    assert [row["tags"] for row in rows[:-1]] == [[]] * (len(rows) - 1) and rows[-1]["tags"] == ["one"]


@given(STEPS, st.integers(1, 7), st.integers(0, 60))
def test_pages_of_single_generations(steps, limit, start):
    covered, plain = made(steps)
    rows, asked = [], start
    while asked is not None:
        facts = describe(choose(covered, Query(limit, True, asked)), ())
        assert len(facts["rows"]) <= limit
        rows += facts["rows"]
        asked = facts["next"]
    expected = [(2, None, None), *((number, PAGE * pages, PAGE * cleared) for number, _, pages, cleared in plain)]
    found = [(row["first"], row["written_bytes"], row["cleared_bytes"]) for row in rows]
    assert found == [one for one in expected if one[0] >= start]


def test_an_empty_window():
    assert describe(choose(CoveredLog(1 << 20), Query()), ()) == {
        "window": None, "tags": [], "group_seconds": None, "rows": [], "next": None,
    }  # fmt: skip


@pytest.mark.parametrize("query", [Query(0), Query(MOST_GROUPS + 1), Query(MOST_ROWS + 1, True), Query(-1, True)])
def test_limits(query):
    with pytest.raises(ConfigError, match="number of rows has to be"):
        query.check()


def test_a_clock_that_is_set_back_all_the_time():
    """More often than there may be rows: none is lost, and they are not too many."""
    covered = CoveredLog(1 << 30)
    for number in range(500):
        covered.generations.append(number, 1 + 2 * number, Reading((1_700_000_000 - 60 * number) * NS))
    covered.records.append(1, 1, [5], [7])
    rows = describe(choose(covered, Query(30)), ())["rows"]
    assert len(rows) <= 31
    assert [number for row in rows for number in range(row["first"], row["last"] + 1)] == list(range(500))


def test_very_many_generations_take_no_time_under_the_lock():
    covered = CoveredLog(1 << 30)
    for number in range(300_000):
        covered.generations.append(number, 1 + 2 * number, Reading(1_700_000_000 * NS + number * NS // 50))
    covered.records.append(1, 1, [5], [7])
    started = time.thread_time()
    choice = choose(covered, Query(MOST_GROUPS))
    assert time.thread_time() - started < 0.1
    assert MOST_GROUPS // 4 < len(choice.spans) <= MOST_GROUPS + 1

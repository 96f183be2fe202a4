# SPDX-License-Identifier: BSD-3-Clause
"""The table of segments, against a list."""

from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.format.segment import MAX_ENTRIES, RAW, ZSTD
from wbcache_core.memory.segment_table import Located, SegmentTable

CHUNK_LSNS = 4096
"""Checksums are kept in arrays of so many; segments here cross from one to the next."""

SEGMENTS = st.lists(
    st.tuples(st.integers(0, MAX_ENTRIES) | st.just(MAX_ENTRIES), st.integers(0, 3), st.sampled_from([RAW, ZSTD])),
    min_size=1,
    max_size=40,
)


def build(shape, first_lsn, place):
    """The table, and (located, page checksums) of each segment; shape is (page count, gap before, encoding) of each."""
    table, model = SegmentTable(), []
    for page_count, gap, encoding in shape:
        place += gap
        sums = [(first_lsn + 1 + index) * 0x9E3779B97F4A7C15 % 2**64 for index in range(page_count)]
        table.append(first_lsn, place, encoding, sums)
        model.append((Located(first_lsn, place, encoding == ZSTD), sums))
        first_lsn += 1 + page_count
        place += 1 + page_count
    return table, model, first_lsn


def compare(table, model, end_lsn):
    assert len(table) == len(model)
    firsts = [located.first_lsn for located, _ in model]
    for lsn in (0, *firsts[::3], *(first + 1 for first in firsts[::5]), end_lsn):
        following = [located for located, _ in model if located.first_lsn >= lsn]
        assert table.some_from(lsn, 3) == following[:3] and table.some_from(lsn, 0) == []
    for located, sums in model:
        for lsn in (located.first_lsn, located.first_lsn + len(sums)):
            assert table.locate(lsn) == located
        assert table.page_sums(located.first_lsn + 1, len(sums)) == sums
        assert table.page_sums(located.first_lsn + 1 + len(sums) // 2, len(sums) // 3) == sums[len(sums) // 2 :][
            : len(sums) // 3
        ]
        following = [lsn for lsn in firsts if lsn > located.first_lsn]
        assert table.first_after(located.first_lsn) == (following[0] if following else None)
        for place in (located.place - 1, located.place, located.place + 1):
            behind = [other for other, _ in model if other.place >= place]
            assert table.first_from_place(place) == (behind[0] if behind else None)
    for start in (firsts[0], firsts[len(firsts) // 2] + 1):
        for end in (start, firsts[-1], firsts[-1] + 1, end_lsn):
            assert table.first_lsns_between(start, end) == [lsn for lsn in firsts if start <= lsn < end]


@given(SEGMENTS, st.sampled_from([1, 4000, CHUNK_LSNS - 1, CHUNK_LSNS, 10**15]), st.integers(0, 10**15), st.data())
def test_it_is_a_list_of_segments(shape, first_lsn, place, data):
    table, model, end_lsn = build(shape, first_lsn, place)
    compare(table, model, end_lsn)
    dropped = data.draw(st.integers(0, len(model) - 1))
    table.drop_below(model[dropped][0].first_lsn)
    compare(table, model[dropped:], end_lsn)
    table.drop_below(end_lsn)
    assert len(table) == 0
    assert table.first_after(0) is None
    assert table.first_from_place(0) is None
    assert table.first_lsns_between(0, end_lsn) == []


def test_it_goes_on_after_everything_was_dropped():
    table, _, end_lsn = build([(10, 0, RAW)] * 3, first_lsn=1, place=0)
    table.drop_below(end_lsn)
    table.append(end_lsn, 500, ZSTD, [1, 2, 3])
    assert table.locate(end_lsn + 3) == Located(end_lsn, 500, True)
    assert table.page_sums(end_lsn + 1, 3) == [1, 2, 3]


def test_dropped_checksums_give_their_memory_back():
    table, model, end_lsn = build([(MAX_ENTRIES, 0, RAW)] * 100, first_lsn=1, place=0)
    assert len(table._page_sums) == 7
    table.drop_below(model[90][0].first_lsn)
    assert len(table._page_sums) == 2
    table.drop_below(end_lsn)
    assert len(table._page_sums) <= 1


def test_a_place_before_all_segments():
    table, model, _ = build([(1, 5, RAW)] * 2, first_lsn=1, place=0)
    assert table.first_from_place(-1000) == model[0][0]

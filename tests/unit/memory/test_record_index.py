# SPDX-License-Identifier: BSD-3-Clause
"""The records in memory give the same map as a replay of the descriptors they come from."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.invariants import check_map
from wbcache_core.format.segment import KIND_SHIFT, RAW, TRIM, ZERO, Descriptor
from wbcache_core.log.recovery import apply_entries
from wbcache_core.memory import record_index
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.record_index import RecordIndex

BLOCKS = 2048
PAGES = st.lists(st.tuples(st.just(0), st.integers(0, BLOCKS - 1), st.integers(0, 9)), max_size=5)
RUN = st.tuples(st.integers(0, BLOCKS - 9), st.integers(1, 9)).map(
    lambda run: [(0, block, 7) for block in range(run[0], run[0] + run[1])]
)
MIXED = st.lists(
    st.tuples(st.sampled_from([0, TRIM, ZERO]), st.integers(0, BLOCKS - 700), st.integers(1, 700)), max_size=5
)
RUNS = st.lists(RUN, max_size=4).map(lambda runs: [page for run in runs for page in run])
SEGMENTS = st.lists(PAGES | RUN | RUNS | MIXED, max_size=25)


def descriptors_of(segments, first_lsn):
    """Descriptors of consecutive segments; each segment is (kind, block, argument)."""
    for entries in segments:
        entry_words = tuple(kind << KIND_SHIFT | block for kind, block, _ in entries)
        arguments = tuple(argument for _, _, argument in entries)
        pages = sum(kind == 0 for kind, _, _ in entries)
        yield Descriptor(
            RAW, pages, bytes(16), first_lsn, 1, 1, 1, 0, pages * 4096, (0,) * 16, entry_words, arguments
        )  # fmt: skip
        first_lsn += 1 + pages


def expected_map(descriptors):
    locations = LocationMap()
    for descriptor in descriptors:
        apply_entries(descriptor, locations.set_page, locations.set_all)
    return locations


def replayed(index, start, end):
    locations = LocationMap()
    index.between(start, end).replay(locations)
    check_map(locations)
    return locations


@settings(max_examples=200)
@given(SEGMENTS, st.data(), st.sampled_from([1, 3, 1024]), st.sampled_from([BLOCKS, 1 << 33]))
def test_any_part_is_replayed_as_its_descriptors_would_be(segments, data, chunk_segments, volume_blocks):
    before, record_index._CHUNK_SEGMENTS = record_index._CHUNK_SEGMENTS, chunk_segments
    try:
        index, descriptors = RecordIndex(volume_blocks), list(descriptors_of(segments, 50))
        for descriptor in descriptors:
            index.append(descriptor.first_lsn, descriptor.page_count, descriptor.entry_words, descriptor.arguments)
        start = data.draw(st.integers(0, len(descriptors)))
        stop = data.draw(st.integers(start, len(descriptors)))
        bounds = [descriptor.first_lsn for descriptor in descriptors] + [descriptors[-1].end_lsn if descriptors else 50]
        records = index.between(bounds[start], bounds[stop])
        index.drop_below(bounds[data.draw(st.integers(start, len(descriptors)))])
        locations = LocationMap()
        records.replay(locations)
        wanted = expected_map(descriptors[start:stop])
        assert locations.entries(0, BLOCKS) == wanted.entries(0, BLOCKS)
    finally:
        record_index._CHUNK_SEGMENTS = before


def test_what_is_added_later_does_not_show():
    index = RecordIndex(BLOCKS)
    index.append(1, 1, (5,), (0,))
    records = index.between(1, 3)
    index.append(3, 1, (5,), (0,))
    index.append(5, 1, (6,), (0,))
    locations = LocationMap()
    records.replay(locations)
    assert (locations.get(5), locations.get(6)) == (2, 0)


def test_memory_of_a_sequential_write_is_per_segment_not_per_page():
    index = RecordIndex(BLOCKS)
    index.append(1, 246, range(246), range(246))
    index.append(248, 3, (5, 6, 8), (0, 0, 0))
    assert len(index._chunks[0].blocks) == 3
    assert replayed(index, 1, 252).get(245) == 247


def test_memory_of_runs_that_arrive_out_of_order_is_per_run():
    index = RecordIndex(BLOCKS)
    entry_words = [block for first in (16, 0, 48, 32) for block in range(first, first + 16)]
    index.append(1, 64, entry_words, entry_words)
    index.append(66, 4, (7, 8, 20, 21), (0,) * 4)
    assert len(index._chunks[0].blocks) == 8 + 4
    locations = replayed(index, 1, 71)
    assert list(locations.entries(15, 3)) == [33, 2, 3]
    assert list(locations.entries(6, 3)) == [24, 67, 68]


@pytest.mark.parametrize("block", [2**32 - 1, 2**32, 2**40])
def test_blocks_of_large_volumes(block):
    index = RecordIndex(block + 2)
    index.append(1, 2, (block, 3), (0, 0))
    locations = replayed(index, 1, 4)
    assert (locations.get(block), locations.get(3)) == (2, 3)


def test_memory_of_trims_is_two_words_an_entry():
    index = RecordIndex(BLOCKS)
    for number in range(1000):
        index.append(1 + number, 0, [TRIM << KIND_SHIFT | 2 * entry for entry in range(4)], (1,) * 4)
    assert len(index._chunks[0].mixed) == 1000 * (1 + 2 * 4)
    assert replayed(index, 1, 1001).get(6)

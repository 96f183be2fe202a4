# SPDX-License-Identifier: BSD-3-Clause
"""Restarts near the end of the data area, where a segment may go to the next lap, and after torn commits."""

import pytest

from tests.support.abandon import abandon
from tests.support.checker import check_pair
from tests.support.local_pair import QUIET
from tests.support.matching import same
from wbcache_core.format.segment import MAX_ENTRIES, MAX_SEGMENT_PAGES
from wbcache_core.format.superblock import DATA_START
from wbcache_core.units import MIB, PAGE_BYTES


def left_in_lap(cache):
    line = cache._line
    return line.data_pages - line.write_place % line.data_pages


def fill_lap(cache, left):
    """Write and destage until so many pages are left before the end of the log."""
    volume, target = cache.volume, left
    while left_in_lap(cache) > target + 2 * MAX_SEGMENT_PAGES:
        volume.write(b"f" * 200 * PAGE_BYTES, 0)
        volume.flush()
    while left_in_lap(cache) != target:
        pages = min(left_in_lap(cache) - target, 100) - 1
        if pages:
            volume.write(b"g" * pages * PAGE_BYTES, 0)
        else:
            volume.trim(PAGE_BYTES, 0)
        volume.flush()
    cache.drain()


def read(cache):
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    return found


@pytest.mark.parametrize("left", [1, 2, 3, 7, 50, MAX_SEGMENT_PAGES - 1, MAX_SEGMENT_PAGES, MAX_SEGMENT_PAGES + 1])
@pytest.mark.parametrize("pages", [1, 6, 200])
def test_what_was_flushed_over_the_end_of_a_lap_is_found(pair, left, pages):
    pair.make_origin(4 * MIB)
    cache = pair.start(**QUIET)
    fill_lap(cache, left)
    for round_number in range(3):
        data = bytes([round_number + 1]) * pages * PAGE_BYTES
        cache.volume.write(data, MIB)
        cache.volume.flush()
        abandon(cache)
        check_pair(pair.log, pair.origin)
        cache = pair.start(**QUIET)
        same(read(cache)[MIB : MIB + len(data)], data)


@pytest.mark.parametrize("left", [3, 5, 8, 60])
@pytest.mark.parametrize("flushes", [1, 2])
def test_a_torn_write_at_the_end_of_a_lap_does_not_hide_what_came_after_it(pair, left, flushes):
    """The torn segment fits before the end. The one that takes its LSN does not, and goes to the next lap."""
    pair.make_origin(4 * MIB)
    cache = pair.start(**QUIET)
    fill_lap(cache, left)
    place = cache._line.write_place % cache._line.data_pages
    cache.volume.write(b"torn" * (2 * PAGE_BYTES // 4), MIB)
    cache.volume.flush()
    abandon(cache)
    with open(pair.log, "r+b") as log:
        log.seek(DATA_START + (place + 2) * PAGE_BYTES)
        log.write(bytes(PAGE_BYTES))

    cache = pair.start(**QUIET)
    expected = read(cache)
    for number in range(flushes):
        data = bytes([number + 1]) * 100 * PAGE_BYTES
        cache.volume.write(data, 2 * MIB + number * MIB)
        cache.volume.flush()
        expected[2 * MIB + number * MIB : 2 * MIB + number * MIB + len(data)] = data
    abandon(cache)
    check_pair(pair.log, pair.origin)
    cache = pair.start(**QUIET)
    same(read(cache), expected)
    cache.drain()
    same(pair.origin.read_bytes(), expected)


def test_a_segment_behind_a_torn_one_is_not_taken_for_the_next(pair):
    """A commit of two segments: the first is torn, and another one of its size is written in its place."""
    large = QUIET | {"ring_size": "8M", "commit_size": "4M", "log_size": "16M"}
    pair.make_origin(4 * MIB)
    cache = pair.start(**large)
    cache.volume.write(b"torn" * (300 * PAGE_BYTES // 4), 0)
    cache.volume.flush()
    assert len(cache._table) == 2
    abandon(cache)
    with open(pair.log, "r+b") as log:
        log.seek(DATA_START + 5 * PAGE_BYTES)
        log.write(bytes(PAGE_BYTES))

    cache = pair.start(**large)
    assert not any(read(cache))
    cache.volume.write(b"new " * (MAX_ENTRIES * PAGE_BYTES // 4), 0)
    cache.volume.flush()
    abandon(cache)
    check_pair(pair.log, pair.origin)
    cache = pair.start(**large)
    same(read(cache), (b"new " * (MAX_ENTRIES * PAGE_BYTES // 4)).ljust(4 * MIB, b"\0"))

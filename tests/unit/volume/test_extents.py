# SPDX-License-Identifier: BSD-3-Clause
"""What is data, zeros or a hole: the map over the origin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.policies import policy_with
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.memory.block_map import HOLE_FLAG, REGION_BLOCKS, ZERO_FLAG, LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.units import GIB, MIB, PAGE_BYTES
from wbcache_core.volume.extents import ExtentMapper

HOLE, ZERO, DATA = (True, True), (False, True), (False, False)
BLOCKS = 3 * REGION_BLOCKS
SIZE = BLOCKS * PAGE_BYTES - 512
OLDEST = 10_000
STRETCH = 300_000


class HalfEmptyOrigin(MemoryDisk):
    """Every other stretch of so many bytes is a hole."""

    def __init__(self, size=SIZE, stretch=100_000):
        super().__init__(bytearray(0))
        self._claimed = size
        self.stretch = stretch
        self.asked = self.told = 0

    @property
    def size(self):
        return self._claimed

    def extents(self, offset, length, most=None):
        self.asked += 1
        assert length > 0
        assert offset + length <= self.size, "nobody asks for more than there is"
        found, end = [], offset + length
        while offset < end and (most is None or len(found) < most):
            self.told += 1
            stop = min(offset - offset % self.stretch + self.stretch, end)
            found.append((offset, stop - offset, *self.kind(offset)))
            offset = stop
        return found

    def kind(self, offset):
        return HOLE if offset // self.stretch % 2 else DATA


def map_extents(line, locations, origin, count, offset):
    return ExtentMapper(line, locations, origin).extents(count, offset)


@pytest.fixture
def line():
    return make_line()


def make_line():
    line = NumberLine(256, 1000, policy_with(1000, high_pages=900, commit_pages=100))
    line.oldest = line.destaged = OLDEST
    return line


def test_an_empty_map_is_the_origin(line):
    origin = HalfEmptyOrigin()
    assert map_extents(line, LocationMap(), origin, 250_000, 50_000) == [
        (50_000, 50_000, *DATA), (100_000, 100_000, *HOLE), (200_000, 100_000, *DATA)
    ]  # fmt: skip


def test_each_kind_of_entry(line):
    locations = LocationMap()
    locations.set_run(0, 3, OLDEST)
    locations.set_all(3, 2, ZERO_FLAG | HOLE_FLAG | OLDEST)
    locations.set_all(5, 2, ZERO_FLAG | OLDEST + 9)
    locations.set_run(7, 1, 2 * OLDEST)
    found = map_extents(line, locations, HalfEmptyOrigin(), 7 * PAGE_BYTES + 100, 1000)
    assert found == [
        (1000, 3 * PAGE_BYTES - 1000, *DATA),
        (3 * PAGE_BYTES, 2 * PAGE_BYTES, *HOLE),
        (5 * PAGE_BYTES, 2 * PAGE_BYTES, *ZERO),
        (7 * PAGE_BYTES, 1100, *DATA),
    ]


def test_what_is_older_than_the_log_is_looked_for_on_the_origin(line):
    locations = LocationMap()
    locations.set_run(0, 10, OLDEST - 10)
    locations.set_all(10, 100, ZERO_FLAG | HOLE_FLAG | OLDEST - 1)
    assert map_extents(line, locations, HalfEmptyOrigin(), 300_000, 0) == [
        (0, 100_000, *DATA), (100_000, 100_000, *HOLE), (200_000, 100_000, *DATA)
    ]  # fmt: skip


def test_neighbours_of_one_kind_are_one_extent(line):
    locations = LocationMap()
    locations.set_all(0, 2 * REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | OLDEST)
    locations.set_all(REGION_BLOCKS // 2, REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | OLDEST + 1)
    assert map_extents(line, locations, HalfEmptyOrigin(), 4 * MIB, 0) == [(0, 4 * MIB, *HOLE)]
    locations.set_run(10, 5, OLDEST + 2)
    locations.set_run(15, 5, OLDEST + 50)
    assert map_extents(line, locations, HalfEmptyOrigin(), MIB, 0)[1] == (10 * PAGE_BYTES, 10 * PAGE_BYTES, *DATA)


def test_one_call_describes_no_more_than_a_gibibyte(line):
    locations = LocationMap()
    locations.set_all(0, 2 * GIB // PAGE_BYTES, ZERO_FLAG | HOLE_FLAG | OLDEST)
    assert map_extents(line, locations, HalfEmptyOrigin(2 * GIB), 2 * GIB - 5, 5) == [(5, GIB, *HOLE)]


def test_nothing_asked_nothing_said(line):
    assert map_extents(line, LocationMap(), HalfEmptyOrigin(), 0, 100) == []


ENTRIES = st.sampled_from(["page", "old page", "hole", "old hole", "zero"])
RANGES = st.lists(
    st.tuples(ENTRIES, st.integers(0, BLOCKS - 1), st.sampled_from([1, 2, 30, 511, 512, 513, 1200])), max_size=10
)


@given(RANGES, st.integers(0, SIZE - 1), st.integers(1, SIZE))
def test_extents_cover_the_range_and_agree_with_each_block(ranges, offset, count):
    line, origin, locations, model = make_line(), HalfEmptyOrigin(), LocationMap(), {}
    count = min(count, SIZE - offset)
    fill(locations, model, ranges)
    position = offset
    found = map_extents(line, locations, origin, count, offset)
    for start, length, hole, zero in found:
        assert start == position
        assert length > 0
        position += length
        # Where each block, and each stretch of the origin, begins in this extent.
        for at in {start, *range(-start % PAGE_BYTES + start, position, PAGE_BYTES), *range(start, position, 50_000)}:
            assert (hole, zero) == (model.get(at // PAGE_BYTES) or origin.kind(at))
    assert position == offset + count
    check_one_at_a_time(ExtentMapper(line, locations, origin), found, offset)


def check_one_at_a_time(mapper, found, position):
    """As in `found`, but for zeros of less than 256 KiB between data, which may be said to be data."""
    end = found[-1][0] + found[-1][1]
    zeros = [(start, start + length, tuple(kind)) for start, length, *kind in found if tuple(kind) != DATA]
    told = []
    while position < end:
        ((start, length, *kind),) = mapper.extents(end - position, position, only_one=True)
        assert start == position
        position += length
        if tuple(kind) != DATA:
            told.append((start, position, tuple(kind)))
    assert position == end
    assert set(told) <= set(zeros)
    for start, stop, kind in set(zeros) - set(told):
        assert stop - start < 256 * 1024, kind


def fill(locations, model, ranges):
    """Put ranges into a map, and what each of their blocks is into the model."""
    for kind, block, length in ranges:
        length = min(length, BLOCKS - block)
        if kind == "old page":
            locations.set_run(block, length, OLDEST - length)
        elif kind == "page":
            locations.set_run(block, length, OLDEST)
        else:
            lsn = OLDEST - 1 if kind == "old hole" else OLDEST
            locations.set_all(block, length, ZERO_FLAG | lsn | (0 if kind == "zero" else HOLE_FLAG))
        known = {"page": DATA, "hole": HOLE, "zero": ZERO}.get(kind)
        model.update(dict.fromkeys(range(block, block + length), known))


class CountingMap(LocationMap):
    """Counts the looks at it."""

    looks = 0

    def run(self, block, last, oldest):
        self.looks += 1
        return super().run(block, last, oldest)


@pytest.mark.parametrize("between", [2, 25, 26, 600])
def test_the_cost_follows_the_extents_that_are_returned(line, between):
    locations, origin = CountingMap(), HalfEmptyOrigin(4 * GIB, STRETCH)
    for lsn, block in enumerate(range(0, STRETCH * 300 // PAGE_BYTES, between), OLDEST):
        locations.set_page(block, lsn)
    mapper, position, asked = ExtentMapper(line, locations, origin), 0, 300
    for _ in range(asked):
        ((start, length, *_),) = mapper.extents(4 * GIB - position, position, only_one=True)
        assert start == position
        position += length
    covered = -(-position // STRETCH) + position // PAGE_BYTES // between
    assert locations.looks <= 3 * (asked + covered)
    assert origin.told <= 4 * (asked + covered)
    assert origin.asked <= 25, "each time more than before, where a client goes on"


def test_one_call_returns_a_bounded_number_of_extents(line):
    locations, origin = CountingMap(), HalfEmptyOrigin(4 * GIB)
    for lsn, block in enumerate(range(0, GIB // PAGE_BYTES, 2), OLDEST):
        locations.set_page(block, lsn)
    found = map_extents(line, locations, origin, 4 * GIB, 0)
    assert 2000 < len(found) <= 4096 == locations.looks


def test_what_the_origin_said_is_forgotten_when_it_may_have_changed(line):
    locations, origin = LocationMap(), HalfEmptyOrigin()
    line.destaged = line.head = OLDEST + 1
    mapper = ExtentMapper(line, locations, origin)
    assert mapper.extents(50_000, 100_000) == [(100_000, 50_000, *HOLE)]
    # Written, destaged, and given up in the log.
    locations.set_run(20, 20, OLDEST + 1)
    assert mapper.extents(4096, 25 * PAGE_BYTES) == [(25 * PAGE_BYTES, 4096, *DATA)], "it is in the log"
    origin.kind = lambda offset: DATA
    line.destaged = line.oldest = OLDEST + 30
    assert mapper.extents(50_000, 100_000) == [(100_000, 50_000, *DATA)]


def test_what_the_origin_said_counts_as_long_as_the_log_has_what_changed_it(line):
    locations, origin = LocationMap(), HalfEmptyOrigin()
    line.destaged = line.oldest = OLDEST
    mapper = ExtentMapper(line, locations, origin)
    for offset in range(0, SIZE - 5000, 5000):
        mapper.extents(5000, offset)
        line.destaged += 10
    assert origin.asked < 12

# SPDX-License-Identifier: BSD-3-Clause
"""How many entries a segment takes before it is closed."""

from wbcache_core.format.segment import MAX_ENTRIES, TRIM
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE, PendingSegment


def fill(segment):
    """Trims until no more fits; how many there were."""
    count = 0
    while segment.takes_range:
        segment.add_range(TRIM, 2 * count, 1)
        count += 1
    return count


def test_small_trims_take_log_as_they_take_memory():
    assert fill(PendingSegment(1)) == MAX_RANGES_PER_PAGE


def test_pages_make_room_for_more_trims():
    segment = PendingSegment(1)
    segment.add_pages(0, 5)
    assert fill(segment) == 6 * MAX_RANGES_PER_PAGE


def test_there_are_never_more_entries_than_a_descriptor_has():
    segment = PendingSegment(1)
    segment.add_pages(0, MAX_ENTRIES - 10)
    assert fill(segment) == 10
    assert not segment.room

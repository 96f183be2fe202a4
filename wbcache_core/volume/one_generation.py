# SPDX-License-Identifier: BSD-3-Clause
"""Blocks of a volume, whatever their number, as the segments of a single generation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from wbcache_core.format.segment import TRIM, ZERO
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import MIB, PAGE_BYTES
from wbcache_core.volume.changed_extents import Change, Kind

RING_BYTES = MIB
"""A segment and a little more: what the ring that is passed to segments() has to take."""
_RANGE_BLOCKS = 1 << 18
"""Blocks of one range entry, as for a client's trim (1 GiB)."""


class Amount(NamedTuple):
    """How much there is. `cleared` counts the blocks of trims and zeros."""

    segments: int
    pages: int
    cleared: int

    @property
    def lsns(self) -> int:
        return self.segments + self.pages


class OneGeneration:
    """The first segment begins with `first_lsn`."""

    def __init__(
        self,
        first_lsn: int,
        changes: Callable[[], Iterator[Change]],
        read: Callable[[memoryview, int], object],
    ) -> None:
        """`changes` has the same blocks, none of them ON_ORIGIN, each time it is called; `read` fills a view of whole
        pages with the data of consecutive blocks, from a block on, with zeros beyond the end of the volume."""
        self._first_lsn = first_lsn
        self._changes = changes
        self._read = read

    def count(self) -> Amount:
        """Reads no data. Raises what `changes` does."""
        segments, pages, cleared = 1, 0, 0
        for is_new, part in self._parts():
            segments += is_new
            if part.kind is Kind.DATA:
                pages += part.block_count
            else:
                cleared += part.block_count
        return Amount(segments, pages, cleared)

    def segments(self, ring: RingBuffer, note: Callable[[int], object]) -> Iterator[PendingSegment]:
        """For LogWriter.write_whole(). `note` is told how many bytes were read. Raises what `changes` and `read` do.

        Full segments, except the last: that is how the end of a generation is recognised.
        """
        segment = PendingSegment(self._first_lsn)
        for is_new, part in self._parts():
            if is_new:
                yield segment
                segment = PendingSegment(segment.end_lsn)
            if part.kind is Kind.DATA:
                pages = bytearray(part.block_count * PAGE_BYTES)
                self._read(memoryview(pages), part.block)
                ring.copy_in(segment.end_lsn, part.block, pages)
                note(len(pages))
            _add(segment, part)
        yield segment

    def _short_changes(self) -> Iterator[Change]:
        """With ranges no longer than an entry may be."""
        for change in self._changes():
            if change.kind is Kind.DATA:
                yield change
                continue
            for block in range(change.block, change.block + change.block_count, _RANGE_BLOCKS):
                yield Change(block, min(_RANGE_BLOCKS, change.block + change.block_count - block), change.kind)

    def _parts(self) -> Iterator[tuple[bool, Change]]:
        """Parts that each fit in one segment, and whether a part begins a new segment."""
        segment = PendingSegment(self._first_lsn)
        for change in self._short_changes():
            block, left = change.block, change.block_count
            while left:
                is_data = change.kind is Kind.DATA
                is_new = not (segment.room if is_data else segment.takes_range)
                if is_new:
                    segment = PendingSegment(segment.end_lsn)
                count = min(left, segment.room) if is_data else left
                part = Change(block, count, change.kind)
                _add(segment, part)
                yield is_new, part
                block, left = block + count, left - count


def _add(segment: PendingSegment, part: Change) -> None:
    if part.kind is Kind.DATA:
        segment.add_pages(part.block, part.block_count)
    else:
        segment.add_range(TRIM if part.kind is Kind.HOLE else ZERO, part.block, part.block_count)

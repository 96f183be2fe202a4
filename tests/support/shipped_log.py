# SPDX-License-Identifier: BSD-3-Clause
"""The log of an owner in memory, and what it would send to a standby."""

from tests.support.simulated_disk import SimulatedDisk
from wbcache_core.clock import Reading
from wbcache_core.format.superblock import DATA_START, Superblock, encode
from wbcache_core.log.epochs import new_epoch
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import MIB, PAGE_BYTES

LOG_BYTES = 4 * MIB
UUID = bytes(range(16))


def superblock(**changes):
    """Of a new log, in its first epoch."""
    blank = Superblock(
        uuid=UUID, sequence=1, log_bytes=LOG_BYTES, origin_bytes=MIB, origin_name="origin", samples=(0,) * 32
    )
    return blank.with_changes(**new_epoch(blank, 1, 0)).with_changes(**changes)


def disk():
    """A blank log device."""
    return SimulatedDisk(bytes(LOG_BYTES), "standby log")


class ShippedLog:
    """commit() makes a generation; `ends` are the LogEnds after each."""

    def __init__(self, first=None, zstd_level=None):
        self.superblock = first or superblock()
        self.ring = RingBuffer(4 * MIB)
        self.data_pages = self.superblock.data_pages
        self.writer = LogWriter(
            disk(), self.data_pages, UUID, self.ring, LogEnd(0, 0, 0, Reading(0), self.superblock.epoch), zstd_level
        )
        self.head = 1
        self.ends = [self.writer.end]

    def commit(self, *counts, committed=None, block=0):
        """Segments with so many pages; returns (offset, content) of each."""
        pending = []
        for count in counts:
            segment = PendingSegment(self.head)
            segment.add_pages(block, count)
            for lsn in range(self.head + 1, segment.end_lsn):
                self.ring.page(lsn)[:] = lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)
            pending.append(segment)
            self.head = segment.end_lsn
        self.writer.prepare(pending, pending[0].first_lsn if committed is None else committed, 1 << 40)
        copies = self.writer.copies()
        self.writer.write()
        self.ends.append(self.writer.end)
        return [(self.offset(place), content) for _, place, content in copies]

    def offset(self, place):
        return DATA_START + place % self.data_pages * PAGE_BYTES

    def page(self, **changes):
        """A superblock with these changes, as it is sent."""
        return memoryview(encode(self.superblock.with_changes(**changes)))

    def next_epoch(self, lsn, previous, **changes):
        """A superblock of an epoch that begins there."""
        self.superblock = self.superblock.with_changes(**new_epoch(self.superblock, lsn, previous)).with_changes(
            **changes
        )
        self.writer.end = self.writer.end._replace(epoch=self.superblock.epoch)
        return memoryview(encode(self.superblock))

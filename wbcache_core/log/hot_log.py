# SPDX-License-Identifier: BSD-3-Clause
"""What recovery would find in the log of a standby, kept up to date while segments and superblocks arrive.

So a takeover does not read the log. The map lags a little behind the records,
since many blocks are entered at once faster than each alone; and it keeps
entries below `destaged` for a while, which count as if they were not there.
"""

from typing import NamedTuple

from wbcache_core.format.segment import Descriptor
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.recovery import Recovered, begins_commit
from wbcache_core.memory.block_map import LocationMap

_LAG_LSNS = 4096
"""So much is entered in the map at once, and is left to be entered at a takeover at the most."""
_SWEPT_AT_ONCE = 32
"""Leaves and spans of the map that are examined with each segment while a sweep is under way."""
_PART_OF_LOG = 16
"""A sweep begins when this part of the log has reached the origin since the last one."""


class Taken(NamedTuple):
    """What a server that takes over goes on from."""

    slots: list[Superblock | None]
    superblock: Superblock
    recovered: Recovered


class HotLog:
    """StandbyLog's lock guards it."""

    def __init__(self, superblock: Superblock, found: Recovered) -> None:
        """A log as recovery found it."""
        self.table = found.table
        self.covered = found.covered
        """From `batch_end` on each generation is there, the newest perhaps only in part."""
        self._locations = found.locations
        self._entered = self._head = found.head
        """The map has everything below, and the records everything below `_head`."""
        self._superblock = superblock
        self._swept_to = superblock.destaged
        self._sweep_next: int | None = None

    @property
    def head(self) -> int:
        """The LSN after the last segment."""
        return self._head

    @property
    def superblock(self) -> Superblock:
        """The newest of this log: that of one that is being begun anew never is. Replaced as a whole; may be read
        without the lock."""
        return self._superblock

    @property
    def locations(self) -> LocationMap:
        """Where the newest version of each block is, entries below `destaged` among them."""
        self._enter()
        return self._locations

    def append(self, descriptor: Descriptor, place: int) -> None:
        """The segment that follows the last one is at that position."""
        if self._head == self._superblock.destaged and not begins_commit(self._superblock, descriptor):
            # As long as there was no segment, the origin counted as having that generation, and nothing else.
            self.covered.generations.drop_below(self._head + 1)
        self.table.append(descriptor.first_lsn, place, descriptor.encoding, descriptor.page_sums)
        self.covered.append(descriptor)
        self._head = descriptor.end_lsn
        if self._head - self._entered >= _LAG_LSNS:
            self._enter()
        if self._sweep_next is not None:
            destaged = self._superblock.destaged
            self._sweep_next = self._locations.sweep(self._sweep_next, _SWEPT_AT_ONCE, destaged, destaged)

    def _enter(self) -> None:
        if self._entered < self._head:
            self.covered.records.between(self._entered, self._head).replay(self._locations)
            self._entered = self._head

    def note(self, superblock: Superblock) -> None:
        """It is the newest of the log, and does not begin it anew."""
        self._superblock = superblock
        destaged = superblock.destaged
        self._entered = max(self._entered, destaged)
        self.covered.records.drop_below(destaged)
        self.covered.generations.drop_below(superblock.batch_end)
        self.table.drop_below(superblock.oldest)
        if self._sweep_next is None and destaged - self._swept_to >= superblock.data_pages // _PART_OF_LOG:
            self._swept_to, self._sweep_next = destaged, 0

    def recovered(self, end: LogEnd) -> Recovered:
        """What recover() would return for this log and its newest superblock, but for the descriptors of its first and
        last segment; `end` is where the log ends. From then on it is the caller's."""
        self._enter()
        destaged = self._superblock.destaged
        self.table.drop_below(destaged)
        page_count = self._head - destaged - len(self.table)
        return Recovered(
            None, None, page_count, self.table, self._locations, self._head, end, None, self.covered
        )  # fmt: skip

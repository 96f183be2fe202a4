# SPDX-License-Identifier: BSD-3-Clause
"""Follows the log: which committed segments come next, in order, and what to do about damaged ones.

Destaging is a consumer of committed segments. A consumer has a cursor, and log
space is reused below the lowest of them (NumberLine.needed_from()).
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from wbcache_core.errors import DamagedPageError
from wbcache_core.flow.batch_executor import BatchExecutor, Loaded, batch_lsns
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import Located, SegmentTable
from wbcache_core.units import PAGE_SHIFT

_log = logging.getLogger("wbcache")


class CommittedLog(Protocol):
    """What a consumer follows: a NumberLine, or the log of a standby."""

    @property
    def lock(self) -> threading.Lock:
        """Guards `committed`, and the table of segments."""

    @property
    def committed(self) -> int:
        """The LSN that the log ends at."""

    @property
    def data_pages(self) -> int:
        """Of the log."""


class Consumer:
    """For one thread."""

    def __init__(self, line: CommittedLog, table: SegmentTable, reader: LogReader, executor: BatchExecutor) -> None:
        self._line = line
        self._table = table  # guarded by the volume lock
        self._reader = reader
        self._executor = executor
        self._batch_lsns = batch_lsns(line.data_pages)

    def end_of_next_batch(self, start: int, limit: int) -> int:
        """The end of a segment, at least one segment beyond start, not beyond limit. Volume lock held."""
        if limit - start <= self._batch_lsns:
            return limit
        return self._table.first_lsns_between(start + 1, start + self._batch_lsns + 1)[-1]

    def load(self, start: int, end: int, is_superseded: Callable[[int, int], bool]) -> Loaded:
        """Let the executor load the segments in [start, end), or those before the first page that fails its checksum.

        Such pages for which is_superseded(block, LSN) is true are left out instead. Raises DamagedPageError if the page
        is in the first segment, DeviceError.
        """
        with self._line.lock:
            segments = [self._table.locate(lsn) for lsn in self._table.first_lsns_between(start, end)]
        loaded = self._executor.load(segments, end)
        skipped: list[int] = []
        for lsn, block in loaded.bad_pages:
            if not is_superseded(block, lsn):
                return self._before(start, lsn, block, is_superseded)
            _log.warning("skipping the damaged page with LSN %d: its block was written again", lsn)
            skipped.append(block)
        if skipped:
            self._executor.leave_out(skipped)
        return loaded

    def _before(self, start: int, bad_lsn: int, block: int, is_superseded: Callable[[int, int], bool]) -> Loaded:
        """The batch that ends before the segment with a damaged page."""
        with self._line.lock:
            cut = self._table.locate(bad_lsn).first_lsn
        if cut == start:
            raise DamagedPageError(f"the page with LSN {bad_lsn} in the log fails its checksum", bad_lsn, block)
        return self.load(start, cut, is_superseded)

    def place_after(self, loaded: Loaded) -> int:
        """Where the segment after a batch is."""
        with self._line.lock:
            return self._table.locate(loaded.last_first_lsn).place + loaded.last_log_pages

    def last_whole_generation(self, batch: Loaded, batch_end: int, current: Superblock) -> tuple[int, int]:
        """Number and time of the last commit that is completely on the origin with this batch; `current` says which one
        was before. Raises DeviceError."""
        before = current.destaged_generation, current.destaged_time_ns
        if batch_end > batch.end_lsn:
            # Something is missing that is later in the log: since then the origin has had no commit completely.
            return before
        if not self._goes_on(batch.generation, batch.end_lsn):
            return batch.generation, batch.time_ns
        return batch.earlier or before

    def _goes_on(self, generation: int, lsn: int) -> bool:
        """Whether the segment at lsn is of that commit too, or cannot be read. Raises DeviceError."""
        with self._line.lock:
            if lsn >= self._line.committed:
                return False
            following = self._table.locate(lsn)
        try:
            return self._reader.descriptor(following).generation == generation
        except DamagedPageError:
            return True


class SegmentsInRing:
    """What the ring still has of committed segments. See RecentSegments. For one thread."""

    def __init__(self, line: NumberLine, ring: RingBuffer) -> None:
        self._line = line
        self._ring = ring

    def copy_newest(self, segments: list[Located], end: int, image: memoryview) -> int:
        start, following = segments[0].first_lsn, end
        for index in range(len(segments) - 1, -1, -1):
            first = segments[index].first_lsn
            if not self._copy(first, image[first - start << PAGE_SHIFT : following - start << PAGE_SHIFT]):
                return index + 1
            following = first
        return 0

    def _copy(self, first: int, view: memoryview) -> bool:
        """Copy one segment if the ring still has it. Optimistic: writers continue meanwhile, and whoever overwrites a
        slot moves `head` under the same hold of the lock, so a look at `head` afterwards tells whether the copy is
        good.
        """
        with self._line.lock:
            if first < self._line.ring_floor:
                return False
        self._ring.copy_out(first, view)
        with self._line.lock:
            return first >= self._line.ring_floor

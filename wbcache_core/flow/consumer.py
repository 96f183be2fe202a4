# SPDX-License-Identifier: BSD-3-Clause
"""Follows the log: committed segments in order, verified, from the ring while it still has them.

Destaging is a consumer of committed segments. A consumer has a cursor, and log
space is reused below the lowest of them (NumberLine.needed_from()).
"""

import errno
import logging
from collections.abc import Callable

from wbcache_core.background import PIECE_PAGES, let_requests_run
from wbcache_core.device.device import aligned_buffer
from wbcache_core.errors import DamagedPageError, DeviceError
from wbcache_core.flow.batch import DestageBatch
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import Located, SegmentTable
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size

_log = logging.getLogger("wbcache")

_BATCH_PAGES = 32768


def batch_lsns(data_pages: int) -> int:
    """A batch is at most 128 MiB, and at most an eighth of the log so that space comes back steadily."""
    return max(min(_BATCH_PAGES, data_pages // 8), MAX_SEGMENT_PAGES)


class Consumer:
    """For one thread."""

    def __init__(self, line: NumberLine, ring: RingBuffer, table: SegmentTable, reader: LogReader) -> None:
        self._line = line
        self._ring = ring
        self._table = table  # guarded by the volume lock
        self._reader = reader
        self._batch_lsns = batch_lsns(line.data_pages)
        self._image: memoryview | None = None

    def end_of_next_batch(self, start: int, limit: int) -> int:
        """The end of a segment, at least one segment beyond start, not beyond limit. Volume lock held."""
        if limit - start <= self._batch_lsns:
            return limit
        return self._table.first_lsns_between(start + 1, start + self._batch_lsns + 1)[-1]

    def release(self) -> None:
        """Release the memory of the last batch."""
        self._image = None

    def load(self, start: int, end: int, is_superseded: Callable[[int, int], bool]) -> DestageBatch:
        """The batch of the segments in [start, end), or of those before the first page that fails its checksum.

        Such pages for which is_superseded(block, LSN) is true are left out instead. Raises DamagedPageError if the page
        is in the first segment, DeviceError. The batch is valid until the next one is loaded.
        """
        batch = self._read(start, end, from_ring=True)
        bad = batch.bad_pages()
        if bad:
            # The log is what has to be right, not the ring.
            batch = self._read(start, end, from_ring=False)
            bad = batch.bad_pages()
        for lsn, block in bad:
            if not is_superseded(block, lsn):
                return self._before(start, lsn, block, is_superseded)
            _log.warning("skipping the damaged page with LSN %d: its block was written again", lsn)
            batch.leave_out(block)
        return batch

    def _before(self, start: int, bad_lsn: int, block: int, is_superseded: Callable[[int, int], bool]) -> DestageBatch:
        """The batch that ends before the segment with a damaged page."""
        with self._line.lock:
            cut = self._table.locate(bad_lsn).first_lsn
        if cut == start:
            raise DamagedPageError(f"the page with LSN {bad_lsn} in the log fails its checksum", bad_lsn, block)
        return self.load(start, cut, is_superseded)

    def _read(self, start: int, end: int, from_ring: bool) -> DestageBatch:
        """The segments in [start, end), their pages not verified. Raises DamagedPageError, DeviceError."""
        image = self._image_of(end - start)
        with self._line.lock:
            firsts = self._table.first_lsns_between(start, end)
            segments = [self._table.locate(lsn) for lsn in firsts]
        in_log = len(segments)
        # The ring holds the newest segments: from the end backwards as far as it goes.
        while from_ring and in_log and self._copy_from_ring(segments, in_log - 1, end, image, start):
            in_log -= 1
        self._reader.load(segments[:in_log], firsts[in_log] if in_log < len(firsts) else end, image, start)
        return DestageBatch(start, image, self._decode(image, start, firsts))

    def _copy_from_ring(self, segments: list[Located], index: int, end: int, image: memoryview, start: int) -> bool:
        """Copy one segment if the ring still has it. Optimistic: writers continue meanwhile, and whoever overwrites a
        slot moves `head` under the same hold of the lock, so a look at `head` afterwards tells whether the copy is
        good.
        """
        first = segments[index].first_lsn
        following = segments[index + 1].first_lsn if index + 1 < len(segments) else end
        with self._line.lock:
            if first < self._line.ring_floor:
                return False
        self._ring.copy_out(first, image[first - start << PAGE_SHIFT : following - start << PAGE_SHIFT])
        with self._line.lock:
            return first >= self._line.ring_floor

    def _decode(self, image: memoryview, start: int, firsts: list[int]) -> list[Descriptor]:
        """The descriptors in an image. Raises DamagedPageError."""
        found: list[Descriptor] = []
        pages = 0
        for lsn in firsts:
            found.append(self._reader.decode(image[lsn - start << PAGE_SHIFT :][:PAGE_BYTES], lsn))
            pages += found[-1].page_count
            if pages >= PIECE_PAGES:
                pages = 0
                let_requests_run()
        return found

    def place_after(self, batch: DestageBatch) -> int:
        """Where the segment after a batch is."""
        with self._line.lock:
            return self._table.locate(batch.last.first_lsn).place + batch.last.log_pages

    def goes_on(self, generation: int, lsn: int) -> bool:
        """Whether the segment at lsn is of that commit too, or cannot be read. Raises DeviceError."""
        with self._line.lock:
            if lsn >= self._line.committed:
                return False
            following = self._table.locate(lsn)
        try:
            return self._reader.descriptor(following).generation == generation
        except DamagedPageError:
            return True

    def _image_of(self, lsns: int) -> memoryview:
        """Raises DeviceError if there is no memory for it now."""
        if self._image is None:
            byte_count = self._batch_lsns << PAGE_SHIFT
            try:
                self._image = aligned_buffer(byte_count)
            except (OSError, MemoryError):
                raise DeviceError(f"no memory for a batch of {format_size(byte_count)}", errno.ENOMEM) from None
        return self._image[: lsns << PAGE_SHIFT]

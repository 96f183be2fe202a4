# SPDX-License-Identifier: BSD-3-Clause
"""Carries forward what the origin rejected: to the end of the log, as if a client had written it again.

So the log does not have to be kept from its old position on. The price is that no earlier moment can be opened any
more: the origin has passed it, without these blocks. Room for this is kept free in ring and log, so it works even when
they are full.
"""

from collections.abc import Callable, Mapping

from wbcache_core.errors import CommitFailedError, DeviceError, LogFailedError, StoppedError
from wbcache_core.flow.admission import end_writes
from wbcache_core.flow.bad_blocks import CARRIED_AT_ONCE, BadBlocks
from wbcache_core.flow.retention import Pins
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.format.shared_ring import HEAD
from wbcache_core.memory.block_map import LocationMap, entry_lsn
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import PAGE_BYTES

_ZEROS = bytes(PAGE_BYTES)


class Carrier:
    """Used by the destager's thread alone; what it uses is guarded by the volume lock."""

    def __init__(
        self,
        line: NumberLine,
        ring: RingBuffer,
        locations: LocationMap,
        table: SegmentTable,
        pins: Pins,
        bad: BadBlocks,
        commit_until: Callable[[int], None],
    ) -> None:
        self._line = line
        self._ring = ring
        self._map = locations
        self._table = table
        self._pins = pins
        self._bad = bad
        self._commit_until = commit_until

    def carry(self, pages: Mapping[int, bytes | memoryview | None], batch_end: int) -> tuple[int, list[int]]:
        """Make sure that the log has these blocks at or above batch_end, durable, unless they are given up.

        `pages` are their contents at batch_end, None for zeros. Returns the LSN below which no moment can be opened any
        more, and the blocks that are given up. No lock held. Raises StoppedError, and DeviceError if a snapshot or a
        tag needs such a moment or the log cannot be written now.
        """
        with self._line.lock:
            dropped = [block for block in pages if self._is_newest(block, batch_end) and self._bad.is_given_up(block)]
            wanted = [block for block in pages if block not in dropped]
            if wanted:
                self._check_pins(self._line.head + 1)
        for start in range(0, len(wanted), CARRIED_AT_ONCE):
            self._append(wanted[start : start + CARRIED_AT_ONCE], pages, batch_end)
        return self._make_durable(wanted, batch_end), dropped

    def _is_newest(self, block: int, batch_end: int) -> bool:
        """Whether the volume has nothing later than the batch. Lock held."""
        return entry_lsn(self._map.get(block)) < batch_end

    def _append(self, blocks: list[int], pages: Mapping[int, bytes | memoryview | None], batch_end: int) -> None:
        """Append those that nobody has written since. Raises StoppedError, DeviceError."""
        line = self._line
        needed = len(blocks) + 1
        with line.lock:
            # From here on writers leave this much of the ring free, and what is in it now gets committed.
            line.carry_ring = needed
            line.refresh_limits()
            head = line.head
        try:
            self._commit(head)
            with line.lock:
                if line.log_error or (line.stopping and not line.draining):
                    raise StoppedError("destaging was interrupted by the server's shutdown")
                blocks = [block for block in blocks if self._is_newest(block, batch_end)]
                if blocks:
                    self._check_room(needed)
                    self._put(blocks, pages)
        finally:
            with line.lock:
                line.carry_ring = 0
                line.refresh_limits()
                line.moved.notify_all()

    def _check_room(self, needed: int) -> None:
        """Raises DeviceError: writers leave room, but repeated crashes may have used it up. Lock held."""
        line = self._line
        pages = line.head - line.committed + needed
        # What a segment that does not fit before the end of the log leaves unused.
        unused = MAX_SEGMENT_PAGES if line.write_place % line.data_pages + pages > line.data_pages else 0
        if pages > line.volatile_pages or pages + unused > line.free_pages:
            raise DeviceError(f"{line.origin_incomplete}; the log has no room to carry them forward")

    def _put(self, blocks: list[int], pages: Mapping[int, bytes | memoryview | None]) -> None:
        """Like Volume.write(), into a segment of their own. Lock held; there is room."""
        line = self._line
        line.close_segment()
        segment = self._ring.open_segment(line)
        try:
            for block in blocks:
                page = pages[block]
                self._ring.put(line.head, block, _ZEROS if page is None else page)
                self._bad.note_carried(block, line.head)
                self._map.set_page(block, line.head)
                segment.add_pages(block, 1)
                self._ring.journal.state[HEAD] = line.head = line.head + 1
        except BaseException:
            # As in Volume: the map may name an LSN that nobody has, and no other write may get it.
            end_writes(line)
            segment.cut(line.head)
            raise
        line.close_segment()
        line.carried.append((segment.first_lsn, line.head))

    def _make_durable(self, blocks: list[int], batch_end: int) -> int:
        """Commit the newest version of each, and end the moments before it. Returns where it ends."""
        line = self._line
        if not blocks:
            return batch_end
        with line.lock:
            newest = max(entry_lsn(self._map.get(block)) for block in blocks)
        self._commit(newest + 1)
        with line.lock:
            end = self._table.first_after(newest) or line.committed
            self._check_pins(end)
            self._pins.pass_to(end)
        return end

    def _check_pins(self, end: int) -> None:
        """Raises DeviceError if somebody needs a moment before `end`. Lock held."""
        if not self._pins.may_pass(end):
            raise DeviceError(
                f"{self._line.origin_incomplete}; a snapshot or tag needs an earlier moment: close or remove it"
            )

    def _commit(self, lsn: int) -> None:
        """Raises StoppedError, DeviceError."""
        try:
            self._commit_until(lsn)
        except CommitFailedError as error:
            # What was appended stays where it is, and is found there when the batch is repeated.
            raise DeviceError(str(error), error.errno_value) from None
        except LogFailedError:
            raise StoppedError("the log device failed") from None

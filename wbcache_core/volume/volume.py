# SPDX-License-Identifier: BSD-3-Clause
"""The volume that clients see: read, write, trim, zero, flush at any byte alignment.

A write takes its LSN and enters the map under one hold of the volume lock, so
the map never depends on completion order. Offsets and lengths are bytes. Every
method raises only RequestError and DeviceError.
"""

from time import monotonic_ns as now_ns

from wbcache_core.counters import ONE, UNTIMED, Counters
from wbcache_core.device.device import Device, Extent
from wbcache_core.errors import OriginFailedError, OutOfRangeError, ReadOnlyError, StoppedError
from wbcache_core.flow.admission import check_log, end_writes, wait_for_destaged, wait_for_peers, wait_for_room
from wbcache_core.flow.committer import Committer
from wbcache_core.flow.throttle import Throttle
from wbcache_core.format.segment import KIND_SHIFT, MAX_ENTRIES, TRIM, ZERO
from wbcache_core.format.shared_ring import HEAD
from wbcache_core.memory.block_map import CLEAR_FLAGS, LSN_MASK, ZERO_FLAG, LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.policy import LOG, ORIGIN, PEER, Policy, stronger
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.units import PAGE_BYTES, PAGE_MASK, PAGE_SHIFT, pages_of
from wbcache_core.volume.extents import ExtentMapper
from wbcache_core.volume.reader import VolumeReader

_CHUNK_PAGES = 64
"""Pages copied under one hold of the lock (256 KiB)."""
_RANGE_BLOCKS = 1 << 18
"""Blocks that one range entry trims or zeroes (1 GiB): bounds the time the lock is held for the map."""
_ZERO_PAGE = bytes(PAGE_BYTES)


class Volume:
    def __init__(
        self,
        line: NumberLine,
        ring: RingBuffer,
        locations: LocationMap,
        reader: VolumeReader,
        origin: Device,
        throttle: Throttle,
        committer: Committer,
        counters: Counters,
    ) -> None:
        self.size = origin.size
        self._line = line
        self._ring = ring
        self._map = locations  # guarded by the volume lock
        self._reader = reader
        self._origin = origin
        self._extents = ExtentMapper(line, locations, origin)
        self._throttle = throttle
        self._committer = committer
        self._counters = counters

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Fill buffer from offset."""
        if offset < 0 or offset + len(buffer) > self.size:
            self._check_range(len(buffer), offset)
        counters = self._counters
        if offset & UNTIMED:
            source = self._reader.read_into(buffer, offset)
        else:
            began = now_ns()
            source = self._reader.read_into(buffer, offset)
            counters.reads[source].note(now_ns() - began)
        step = ONE + len(buffer)
        counters.read_totals[source] += step

    def write(
        self, data: bytes | bytearray | memoryview, offset: int, fua: bool = False, ack: int | None = None
    ) -> None:
        """Write data at offset; returns when the cursor of `ack`, or of `fua`, has passed it. `ack` is a level that
        replaces the policy's."""
        count, counters = len(data), self._counters
        began = 0 if offset & UNTIMED else now_ns()
        line, ring = self._line, self._ring
        if not line.soft_limit:
            self._throttle.pause(pages_of(count))
        if count == PAGE_BYTES and not offset & PAGE_MASK and offset + PAGE_BYTES <= self.size:
            # The same as _append() for one page: this is the request whose cost matters most.
            block = offset >> PAGE_SHIFT
            with line.lock:
                if line.head + 2 > line.soft_limit:
                    wait_for_room(line, 2)
                segment = line.open_segment or ring.open_segment(line)
                lsn = line.head
                ring.put(lsn, block, data)
                try:
                    self._map.set_page(block, lsn)
                    entry_words = segment.entry_words
                    entry_words.append(block)
                    if ack is not None:
                        segment.answer_at(ack)
                    # First published, for the server after this one, then admitted to the commit.
                    ring.journal.state[HEAD] = line.head = end = lsn + 1
                    if len(entry_words) == MAX_ENTRIES:
                        line.close_segment()
                except BaseException:
                    self._end_writes(segment)
                    raise
                policy = line.policy
        else:
            self._check_range(count, offset)
            end, policy = self._write_pieces(memoryview(data), offset, ack)
        if fua or ack or policy.ack or policy.draining:
            self._acknowledge(end, policy, fua, ack)
        if began:
            counters.writes.note(now_ns() - began)
        counters.write_totals[0] += ONE + count

    def trim(self, count: int, offset: int, fua: bool = False, ack: int | None = None) -> None:
        """Discard: the range reads as zeros and is deallocated on the origin if possible. `ack` as for write()."""
        self._clear(TRIM, count, offset, fua, ack)

    def zero(
        self, count: int, offset: int, fua: bool = False, may_trim: bool = True, ack: int | None = None
    ) -> None:
        """Zero a range; without may_trim it stays allocated on the origin. Always fast: one entry per GiB. `ack` as
        for write()."""
        self._clear(TRIM if may_trim else ZERO, count, offset, fua, ack)

    def flush(self) -> None:
        """Return when the cursor of `flush` has passed every request acknowledged before."""
        began = now_ns()
        with self._line.lock:
            check_log(self._line)
            end = self._line.head
        self._reach(end, self._line.policy.flush)
        self._counters.flushes.note(now_ns() - began)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from offset, or only the first with only_one; they may stop short of count."""
        self._check_range(count, offset)
        return self._extents.extents(count, offset, only_one)

    def prefetch(self, count: int, offset: int) -> None:
        """Have the origin read ahead. Data in the ring or the log needs no help."""
        self._check_range(count, offset)
        self._origin.prefetch(offset, count)

    def _check_range(self, count: int, offset: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise OutOfRangeError(
                f"request of {count} bytes at {offset} reaches beyond the end of the volume ({self.size} bytes)"
            )

    def _acknowledge(self, end: int, policy: Policy, fua: bool, ack: int | None) -> None:
        """Return when a request whose last LSN is below end may be answered."""
        level = policy.ack if ack is None else ack
        self._reach(end, max(policy.fua, level) if fua else level)
        if policy.draining:
            self._wait_in_drain(end)

    def _wait_in_drain(self, end: int) -> None:
        """Have nothing new become dirty, unless the origin fails: the drain then has more to do, and clients go on."""
        line = self._line
        try:
            self._reach(end, ORIGIN)
        except StoppedError:
            # It is accepted, and the stop commits it.
            pass
        except OriginFailedError:
            with line.lock:
                if line.drain_target:
                    line.drain_target = max(line.drain_target, end)

    def _reach(self, end: int, level: int) -> None:
        """Return when the cursor of that level has passed every LSN below end."""
        if not self._line.writable:
            if end > self._line.committed:
                raise ReadOnlyError(
                    "the volume is served read-only: what a server that was killed had acknowledged cannot be committed"
                )
            # Nobody has written yet.
            return
        if level >= LOG:
            self._committer.commit_until(end)
        if level > LOG:
            with self._line.lock:
                if level >= ORIGIN:
                    wait_for_destaged(self._line, end)
                else:
                    wait_for_peers(self._line, end, is_durable=level == PEER)

    def _write_pieces(self, data: memoryview, offset: int, ack: int | None) -> tuple[int, Policy]:
        """Write any range as whole pages and patched ones; returns the LSN after the last, and the policy to answer by:
        not weaker than what each segment was told when its piece was put there."""
        line = self._line
        position, count, end = 0, len(data), line.head
        policy = line.policy
        while position < count:
            at = offset + position
            rest = count - position
            start = at & PAGE_MASK
            if not start and rest >= PAGE_BYTES:
                pages = min(rest >> PAGE_SHIFT, _CHUNK_PAGES)
                taken = pages << PAGE_SHIFT
                with line.lock:
                    wait_for_room(line, pages + 2)
                    self._append(at >> PAGE_SHIFT, data[position : position + taken], pages, ack)
                    end, policy = line.head, stronger(policy, line.policy)
            else:
                taken = min(PAGE_BYTES - start, rest)
                end, patched_by = self._patch(at >> PAGE_SHIFT, start, data[position : position + taken], ack)
                policy = stronger(policy, patched_by)
            position += taken
        return end, policy

    def _append(self, block: int, data: bytes | bytearray | memoryview, count: int, ack: int | None) -> None:
        """Put whole pages at the head of the line. Lock held; there is room for them and two descriptors."""
        line, ring = self._line, self._ring
        if count > 1:
            data = memoryview(data)
        while count:
            segment = line.open_segment or ring.open_segment(line)
            pages = min(count, segment.room)
            lsn = line.head
            if pages == 1:
                ring.put(lsn, block, data if count == 1 else data[:PAGE_BYTES])
            else:
                ring.copy_in(lsn, block, data[: pages << PAGE_SHIFT])
            try:
                if pages == 1:
                    self._map.set_page(block, lsn)
                else:
                    self._map.set_run(block, pages, lsn)
                segment.add_pages(block, pages)
                if ack is not None:
                    segment.answer_at(ack)
                ring.journal.state[HEAD] = line.head = lsn + pages
                if not segment.room:
                    line.close_segment()
            except BaseException:
                self._end_writes(segment)
                raise
            block += pages
            count -= pages
            if count:
                data = data[pages << PAGE_SHIFT :]

    def _end_writes(self, segment: PendingSegment) -> None:
        """A write has failed between map, segment and head. Lock held.

        The map may contain LSNs that nothing has: no other write may get them. The segment is made to agree with `head`
        again, so that everything before can be committed.
        """
        end_writes(self._line)
        segment.cut(self._line.head)

    def _patch(self, block: int, start: int, piece: memoryview, ack: int | None) -> tuple[int, Policy]:
        """Log a page of which only piece, from byte start, is new; atomic against all other writers of the page.

        Reads the old page without the lock and starts over if the block's entry has changed meanwhile. An entry never
        returns to an earlier value, unless the map dropped one that was committed since (see its sweep()).
        """
        line, locations = self._line, self._map
        base: bytes | bytearray | None = None
        seen = committed = -1
        while True:
            with line.lock:
                wait_for_room(line, 2)
                entry = locations.get(block)
                lsn = entry & LSN_MASK
                if entry & ZERO_FLAG and lsn >= line.oldest:
                    base = _ZERO_PAGE
                elif lsn >= line.ring_floor and not entry & ZERO_FLAG:
                    base = bytes(self._ring.page(lsn))
                elif base is None or entry != seen or locations.dropped_below > committed:
                    base, seen, committed = None, entry, line.committed
                if base is not None:
                    page = bytearray(base)
                    page[start : start + len(piece)] = piece
                    self._append(block, page, 1, ack)
                    return line.head, line.policy
            base = self._reader.read_block(block)

    def _clear(self, kind: int, count: int, offset: int, fua: bool, ack: int | None) -> None:
        """Trim or zero: a range entry for the whole pages, patches for the ends."""
        self._check_range(count, offset)
        began, end_offset = now_ns(), offset + count
        first = pages_of(offset)
        last = pages_of(end_offset) if end_offset == self.size else end_offset >> PAGE_SHIFT
        if first >= last:
            end, policy = self._zero_pieces(offset, end_offset, ack)
        else:
            end, policy = self._zero_pieces(offset, first << PAGE_SHIFT, ack)
            for block in range(first, last, _RANGE_BLOCKS):
                end, range_by = self._append_range(kind, block, min(_RANGE_BLOCKS, last - block), ack)
                policy = stronger(policy, range_by)
            tail_end, tail_by = self._zero_pieces(last << PAGE_SHIFT, end_offset, ack)
            end, policy = max(end, tail_end), stronger(policy, tail_by)
        if fua or ack or policy.ack or policy.draining:
            self._acknowledge(end, policy, fua, ack)
        self._counters.clears.note(now_ns() - began)

    def _zero_pieces(self, offset: int, end: int, ack: int | None) -> tuple[int, Policy]:
        """Zero parts of pages, at most two; see _write_pieces()."""
        if offset >= end:
            return 0, self._line.policy
        return self._write_pieces(memoryview(bytes(end - offset)), offset, ack)

    def _append_range(self, kind: int, block: int, count: int, ack: int | None) -> tuple[int, Policy]:
        """Log one range; returns the head, which a durable cursor has to reach, and the policy then in force."""
        line, ring = self._line, self._ring
        with line.lock:
            wait_for_room(line, 1)
            if line.open_segment and not line.open_segment.takes_range:
                line.close_segment()
            segment = line.open_segment or ring.open_segment(line)
            try:
                # The range stands at the LSN before it: later than every page up to there, earlier than the next.
                self._map.set_all(block, count, CLEAR_FLAGS[kind] | line.head - 1)
                segment.add_range(kind, block, count)
                if ack is not None:
                    segment.answer_at(ack)
                # The segment's own LSN, too, if a write failed just when it had opened it.
                ring.journal.state[HEAD] = line.head
                ring.journal.note_range(kind << KIND_SHIFT | block, count, line.head - 1)
                if not segment.room:
                    line.close_segment()
            except BaseException:
                self._end_writes(segment)
                raise
            return line.head, line.policy

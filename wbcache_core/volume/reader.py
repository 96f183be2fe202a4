# SPDX-License-Identifier: BSD-3-Clause
"""Reads the live volume: newest page from ring, log or origin, whichever the map says.

Ring pages are copied under the volume lock. Log and origin are read without it,
optimistically: a log page is proved by its checksum, an origin page by the
block's entry in the map being unchanged afterwards.
"""

import enum
import threading
from array import array
from typing import NamedTuple, Protocol

from wbcache_core.counters import LOG, ORIGIN, RING, Counters
from wbcache_core.device.device import Device
from wbcache_core.errors import DamagedPageError, DeviceError
from wbcache_core.log.reader import LogPiece, LogReader
from wbcache_core.memory.block_map import LSN_MASK, ZERO_FLAG, LocationMap, entry_lsn
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_MASK, PAGE_SHIFT

_CHUNK_PAGES = MIB >> PAGE_SHIFT
_ZEROS = memoryview(bytes(MIB))


class _Source(enum.Enum):
    LOG, ORIGIN, UNKNOWN = range(3)


class _Work(NamedTuple):
    """What a look-up left to read without the lock. Indices count pages of the view; `committed` is as it was then."""

    log: list[tuple[int, LogPiece]]
    origin: list[tuple[int, int]]
    entries: "array[int]"
    committed: int


def _run_length(entries: "array[int]", index: int) -> int:
    """How many entries from index on are consecutive LSNs; by bisecting slices, because a loop takes longer."""
    first = entries[index]
    if index + 1 == len(entries) or entries[index + 1] != first + 1:
        return 1
    known, limit = 2, len(entries) - index
    ascending = array("Q", range(first, first + limit))
    while known < limit:
        # Rounded up, so that a whole run takes one comparison.
        middle = (known + limit + 1) // 2 if limit < len(ascending) else limit
        if entries[index : index + middle] == ascending[:middle]:
            known = middle
        else:
            limit = middle - 1
    return known


class ReadLine(Protocol):
    """What a reader has to know of the number line, which is a NumberLine or that of one moment. Lock held."""

    @property
    def lock(self) -> threading.Lock: ...
    @property
    def head(self) -> int: ...
    @property
    def committed(self) -> int: ...
    @property
    def destaged(self) -> int: ...
    @property
    def oldest(self) -> int: ...
    @property
    def ring_start(self) -> int: ...
    @property
    def ring_floor(self) -> int: ...
    @property
    def ring_pages(self) -> int: ...


class VolumeReader:
    def __init__(
        self,
        line: ReadLine,
        ring: RingBuffer,
        locations: LocationMap,
        table: SegmentTable,
        log: LogReader,
        origin: Device,
        counters: Counters,
    ) -> None:
        self._line = line
        self._ring = ring
        self._map = locations  # guarded by the volume lock
        self._table = table  # guarded by the volume lock
        self._log = log
        self._origin = origin
        self._counters = counters

    def through(self, locations: LocationMap) -> "VolumeReader":
        """A reader of the same ring, log and origin with another map, which does not change any more."""
        return VolumeReader(
            self._line, self._ring, locations, self._table, self._log, self._origin, self._counters
        )

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> int:
        """Fill buffer from byte offset; returns the slowest source of what is in it. Raises DeviceError,
        DamagedPageError."""
        count = len(buffer)
        view = memoryview(buffer)
        if count == PAGE_BYTES and not offset & PAGE_MASK:
            source = self._read_page(view, offset)
            if source is not None:
                return source
        slowest = RING
        position = 0
        while position < count:
            block, start = divmod(offset + position, PAGE_BYTES)
            pages = min((count - position) >> PAGE_SHIFT, _CHUNK_PAGES)
            if start or not pages:
                taken = min(PAGE_BYTES - start, count - position)
                page = bytearray(PAGE_BYTES)
                source = self._read_pages(block, memoryview(page))
                view[position : position + taken] = page[start : start + taken]
            else:
                taken = pages << PAGE_SHIFT
                source = self._read_pages(block, view[position : position + taken])
            slowest = max(slowest, source)
            position += taken
        return slowest

    def _read_page(self, view: memoryview, offset: int) -> int | None:
        """Fast path for one page; returns its source. None, with view not filled, if it has to be read like any other
        piece.

        This is the request whose cost matters most. What the first look does not decide is left to _read_pages().
        """
        line, block = self._line, offset >> PAGE_SHIFT
        with line.lock:
            entry = self._map.get(block)
            if line.ring_start <= entry <= LSN_MASK and entry >= line.head - line.ring_pages:
                view[:] = self._ring.page(entry)
                return RING
            committed = line.committed
            if is_on_origin := entry_lsn(entry) < line.oldest:
                segment, page_sum = None, 0
            elif entry > LSN_MASK:
                return None
            else:
                segment = self._table.locate(entry)
                page_sum = self._table.page_sum(entry)
        if is_on_origin:
            self._origin.read_into(view, offset)
            with line.lock:
                is_unchanged = self._map.get(block) == entry and self._map.dropped_below <= committed
            return ORIGIN if is_unchanged else None
        assert segment
        return LOG if self._log.read_page(segment, entry, page_sum, view) else None

    def read_block(self, block: int) -> bytearray:
        """One whole page; beyond the end of the volume it is zeros. Raises the same as read_into()."""
        page = bytearray(PAGE_BYTES)
        self._read_pages(block, memoryview(page))
        return page

    def _read_pages(self, block: int, view: memoryview) -> int:
        """Fill a view of whole pages, at most _CHUNK_PAGES, from a block on; returns the slowest source."""
        todo, slowest = [(block, view)], RING
        while todo:
            block, view = todo.pop()
            with self._line.lock:
                work = self._look_up(block, view)
            slowest = max(slowest, ORIGIN if work.origin else LOG if work.log else RING)
            for index, piece in work.log:
                part = view[index << PAGE_SHIFT : index + len(piece.page_sums) << PAGE_SHIFT]
                source = self._read_log(piece, part, block + index)
                if source is _Source.ORIGIN:
                    slowest = ORIGIN
                    work.origin.append((index, len(piece.page_sums)))
                elif source is _Source.UNKNOWN:
                    todo.append((block + index, part))
            for index, count in work.origin:
                part = view[index << PAGE_SHIFT : index + count << PAGE_SHIFT]
                self._read_origin(block + index, part)
                if not self._is_unchanged(block + index, work.entries[index : index + count], work.committed):
                    todo.append((block + index, part))
        return slowest

    def _is_unchanged(self, block: int, entries: "array[int]", committed: int) -> bool:
        """Whether nobody wrote the blocks since the look-up, so that the destager did not touch them on the origin.

        What was written since then is not below `committed`, as that stood; so the map has not dropped it.
        """
        with self._line.lock:
            return self._map.dropped_below <= committed and self._map.entries(block, len(entries)) == entries

    def _read_log(self, piece: LogPiece, view: memoryview, block: int) -> "_Source":
        """LOG if view is filled, otherwise where its pages have to be looked for. Raises the same as read_into()."""
        try:
            self._log.read_into(piece, view)
            return _Source.LOG
        except (DamagedPageError, DeviceError) as error:
            with self._line.lock:
                if piece.lsn < self._line.oldest:
                    # Its position in the log was reclaimed meanwhile.
                    return _Source.UNKNOWN
                if piece.lsn < self._line.destaged:
                    # The origin has what the log has lost here.
                    return _Source.ORIGIN
            if not isinstance(error, DamagedPageError):
                raise
            self._counters.checksum_failures += 1
            offset = block + max(error.lsn - piece.lsn, 0) << PAGE_SHIFT
            raise DamagedPageError(
                f"the 4096 bytes of the volume at {offset} are lost: {error}; write them again, from a backup",
                error.lsn,
            ) from None

    def _look_up(self, block: int, view: memoryview) -> _Work:
        """Copy what is in the ring or zero, and say where the rest is. Volume lock held."""
        line = self._line
        oldest, ring_floor = line.oldest, line.ring_floor
        entries = self._map.entries(block, len(view) >> PAGE_SHIFT)
        work = _Work([], [], entries, line.committed)
        index, total = 0, len(entries)
        while index < total:
            entry = entries[index]
            stop = index + 1
            if entry_lsn(entry) < oldest:
                while stop < total and entry_lsn(entries[stop]) < oldest:
                    stop += 1
                work.origin.append((index, stop - index))
            elif entry & ZERO_FLAG:
                while stop < total and entries[stop] == entry:
                    stop += 1
                view[index << PAGE_SHIFT : stop << PAGE_SHIFT] = _ZEROS[: stop - index << PAGE_SHIFT]
            else:
                stop = index + _run_length(entries, index)
                if entry >= ring_floor:
                    self._ring.copy_out(entry, view[index << PAGE_SHIFT : stop << PAGE_SHIFT])
                else:
                    stop = self._find_in_log(work, index, entry, min(stop - index, ring_floor - entry))
            index = stop
        return work

    def _find_in_log(self, work: _Work, index: int, lsn: int, count: int) -> int:
        """Add a piece of at most count pages, all in one segment; returns the index after it. Volume lock held."""
        segment = self._table.locate(lsn)
        following = self._table.first_after(lsn)
        count = min(count, (following or self._line.committed) - lsn)
        work.log.append((index, LogPiece(lsn, segment, self._table.page_sums(lsn, count))))
        return index + count

    def _read_origin(self, block: int, view: memoryview) -> None:
        offset = block << PAGE_SHIFT
        inside = min(len(view), self._origin.size - offset)
        if inside < len(view):
            self._origin.read_into(view[:inside], offset)
            view[inside:] = bytes(len(view) - inside)
        else:
            self._origin.read_into(view, offset)

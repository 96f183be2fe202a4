# SPDX-License-Identifier: BSD-3-Clause
"""Which parts of a volume are data, zeros or holes: the map's entries over the origin's own extents.

The cost of an answer depends on the number of extents in it, not on the range in the request: qemu asks for one extent
at a time, in ranges of up to 2 GiB.
"""

from bisect import bisect_right
from typing import NamedTuple

from wbcache_core.device.device import Device, Extent
from wbcache_core.memory.block_map import HOLE_FLAG, ZERO_FLAG, LocationMap, entry_lsn
from wbcache_core.units import GIB, KIB, MIB, PAGE_BYTES, PAGE_SHIFT
from wbcache_core.volume.reader import ReadLine

_LONGEST = GIB
"""Most bytes that one call describes; a client asks again for the rest."""
_MOST = 4096
"""Most looks at the map in one call, each of which gives part of an extent."""
_SHORT_BYTES = 256 * KIB
"""See _first_is_complete()."""
_FIRST_ASKED, _FIRST_BYTES = 4, MIB
"""How much the origin is asked about at first; twice as much each time a client continues where that ended."""
_NEAR_BYTES = 64 * MIB
"""A look-up this far beyond the end of the previous one counts as continuing it: what lies between is in the map."""

_DATA = (False, False)
_ON_ORIGIN = None


class _Window(NamedTuple):
    """What the origin said about the bytes from start to ends[-1]; `destaged` is the cursor before it was asked."""

    start: int
    ends: list[int]
    kinds: list[tuple[bool, bool]]
    destaged: int
    asked: int
    asked_bytes: int

    def covers(self, position: int, dropped: int) -> bool:
        """Whether this still holds for a block at that byte which the map says is on the origin.

        Since then the origin has changed only where LSNs from `destaged` on were written. As long as `dropped`, below
        which the map may lack entries, has not passed these, the map says that such blocks are in the log.
        """
        return dropped <= self.destaged and self.start <= position < self.ends[-1]


class ExtentMapper:
    """Maps one volume. `_window` is replaced as a whole: several threads may do so, each with a correct one."""

    def __init__(self, line: ReadLine, locations: LocationMap, origin: Device) -> None:
        """`locations` must have everything that was written from the present line.destaged on."""
        self._line = line
        self._map = locations
        self._origin = origin
        self._window = _Window(0, [0], [], 0, _FIRST_ASKED, _FIRST_BYTES)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from byte offset, which may stop short of count; neighbours differ.

        With only_one, only the first, which may report short stretches of zeros in it as data. Takes the volume lock
        for one look at a time, not across I/O. Raises DeviceError.
        """
        end = offset + min(count, _LONGEST)
        found: list[Extent] = []
        position = offset
        for _ in range(_MOST):
            if position >= end or (only_one and _first_is_complete(found)):
                break
            stop, kind, dropped = self._next_run(position, end)
            if kind is _ON_ORIGIN:
                position = self._add_from_origin(found, position, stop, dropped)
            else:
                add_extent(found, position, stop, kind)
                position = stop
        return found[:1] if only_one else found

    def _next_run(self, position: int, end: int) -> tuple[int, tuple[bool, bool] | None, int]:
        """How far a run of similar blocks from a byte on is known to go; its (hole, zero) or _ON_ORIGIN; the LSN below
        which the map may lack entries."""
        block, last = position >> PAGE_SHIFT, end + PAGE_BYTES - 1 >> PAGE_SHIFT
        with self._line.lock:
            oldest = self._line.oldest
            stop, entry = self._map.run(block, last, oldest)
            dropped = max(oldest, self._map.dropped_below)
        kind = _ON_ORIGIN if entry_lsn(entry) < oldest else (bool(entry & HOLE_FLAG), bool(entry & ZERO_FLAG))
        return min(stop << PAGE_SHIFT, end), kind, dropped

    def _add_from_origin(self, found: list[Extent], position: int, stop: int, dropped: int) -> int:
        """Add what the origin has from position to stop, or the beginning of it; returns where that ends."""
        window = self._window
        if not window.covers(position, dropped):
            window = self._window = self._ask(window, position, stop)
        index = bisect_right(window.ends, position)
        end = min(window.ends[index], stop)
        add_extent(found, position, end, window.kinds[index])
        return end

    def _ask(self, before: _Window, position: int, stop: int) -> _Window:
        """Ask the origin about the bytes from position on."""
        asked, asked_bytes = _FIRST_ASKED, _FIRST_BYTES
        # A little earlier: the last answer looked beyond its own end.
        if before.start - _FIRST_BYTES <= position <= before.ends[-1] + _NEAR_BYTES:
            asked = min(2 * before.asked, _MOST)
            asked_bytes = min(2 * before.asked_bytes, _LONGEST)
        length = min(max(stop - position, asked_bytes), self._origin.size - position)
        with self._line.lock:
            destaged = self._line.destaged
        ends: list[int] = []
        kinds: list[tuple[bool, bool]] = []
        for start, count, hole, zero in self._origin.extents(position, length, asked):
            ends.append(start + count)
            kinds.append((hole, zero))
        return _Window(position, ends, kinds, destaged, asked, asked_bytes)


def _first_is_complete(found: list[Extent]) -> bool:
    """Whether nothing that follows can extend the first extent. Short stretches of zeros between data become data.

    A client that asks for one extent at a time pays more for a request than for reading these zeros, and finds them in
    what it reads (qemu-img). Zeros may be reported as data, but not the other way round.
    """
    if len(found) == 3:
        (start, *_), _, (last, length, *kind) = found
        if found[0][2:] == tuple(kind) == _DATA:
            found[:] = [(start, last + length - start, *_DATA)]
            return False
        return True
    return len(found) > 1 and (found[0][2:] != _DATA or found[1][1] >= _SHORT_BYTES)


def add_extent(found: list[Extent], start: int, stop: int, kind: tuple[bool, bool]) -> None:
    """Append, or extend the last extent if it is of the same kind."""
    if found and found[-1][2:] == kind:
        first = found[-1][0]
        found[-1] = first, stop - first, *kind
    else:
        found.append((start, stop - start, *kind))

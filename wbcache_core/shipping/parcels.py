# SPDX-License-Identifier: BSD-3-Clause
"""What is shipped: whole segments as the log has them, from the ring or, for a peer that is behind, from the log."""

from collections.abc import Sequence
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.errors import DamagedPageError, FormatError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor, decode
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import MIB, PAGE_SHIFT

READ_BYTES = 4 * MIB
"""Read from the log at once."""


class Parcel(NamedTuple):
    """One segment, `place` and `end_place` as in the log. `ends_commit`: it is to be made durable with all before."""

    first_lsn: int
    end_lsn: int
    place: int
    end_place: int
    content: bytes | memoryview
    ends_commit: bool


def parcels_of(copies: Sequence[tuple[Descriptor, int, bytes | memoryview]]) -> list[Parcel]:
    """Segments that are made durable together, each as its descriptor, its position, and its bytes in the log."""
    last = len(copies) - 1
    return [
        Parcel(one.first_lsn, one.end_lsn, place, place + one.log_pages, content, index == last)
        for index, (one, place, content) in enumerate(copies)
    ]


class LogParcels:
    """Reads committed segments of this server's log. For any thread."""

    def __init__(self, line: NumberLine, table: SegmentTable, log: Device, reader: LogReader) -> None:
        self._line = line
        self._table = table  # guarded by the volume lock
        self._log = log
        self._reader = reader

    def after(self, lsn: int, image: memoryview) -> list[Parcel] | None:
        """Some segments from lsn on, which is where one begins or `committed`; None if the log does not have them any
        more. Their content is in the image, of READ_BYTES. Raises DeviceError, DamagedPageError."""
        line = self._line
        with line.lock:
            if lsn < line.oldest:
                return None
            committed = line.committed
            if lsn >= committed:
                return []
            place = self._table.locate(lsn).place
            end = line.write_place
        image = image[: min(line.data_pages - place % line.data_pages, end - place) << PAGE_SHIFT]
        self._log.read_uncached_into(image, self._reader.offset_of(place))
        with line.lock:
            if lsn < line.oldest:
                return None
        found = _whole_segments(image, lsn, committed, place)
        if not found:
            raise DamagedPageError(f"the segment at LSN {lsn} in log '{self._log.name}' cannot be read back", lsn)
        return parcels_of(found)

    def checksum_before(self, lsn: int) -> int | None:
        """That of the descriptor whose segment ends at lsn; None if the log has none there. Raises DeviceError."""
        line = self._line
        with line.lock:
            if not line.oldest < lsn <= line.committed:
                return None
            last = self._table.locate(lsn - 1)
        try:
            descriptor = self._reader.descriptor(last)
        except DamagedPageError:
            return None
        return descriptor.checksum if descriptor.end_lsn == lsn else None


def _whole_segments(image: memoryview, lsn: int, end: int, place: int) -> list[tuple[Descriptor, int, memoryview]]:
    """Those from lsn to `end` that are whole in the image, which begins with the first of them, at `place`."""
    found: list[tuple[Descriptor, int, memoryview]] = []
    at, pages = 0, len(image) >> PAGE_SHIFT
    while at < pages and lsn < end:
        try:
            descriptor = decode(image[at << PAGE_SHIFT : at + 1 << PAGE_SHIFT])
        except FormatError:
            break
        stop = at + descriptor.log_pages
        if descriptor.first_lsn != lsn or stop > pages:
            break
        found.append((descriptor, place + at, image[at << PAGE_SHIFT : stop << PAGE_SHIFT]))
        at, lsn = stop, descriptor.end_lsn
    return found


assert MAX_SEGMENT_PAGES << PAGE_SHIFT <= READ_BYTES

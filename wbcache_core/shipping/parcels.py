# SPDX-License-Identifier: BSD-3-Clause
"""What is shipped: whole segments as the log has them, from the ring or, for a peer that is behind, from the log."""

from typing import NamedTuple

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DamagedPageError, FormatError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor, decode
from wbcache_core.format.superblock import DATA_START
from wbcache_core.log.writer import WrittenSegment
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import MIB, PAGE_SHIFT

_READ_PAGES = 4 * MIB >> PAGE_SHIFT
"""Read from the log at once."""


class Parcel(NamedTuple):
    """One segment, `place` and `end_place` as in the log. `ends_commit`: it is to be made durable with all before."""

    first_lsn: int
    end_lsn: int
    place: int
    end_place: int
    content: bytes
    ends_commit: bool


def parcels_of(copies: list[tuple[WrittenSegment, bytes]]) -> list[Parcel]:
    """A generation that is being committed."""
    last = len(copies) - 1
    return [
        Parcel(
            segment.descriptor.first_lsn, segment.descriptor.end_lsn, segment.place, segment.end_place, content,
            index == last,
        )
        for index, (segment, content) in enumerate(copies)
    ]  # fmt: skip


class LogParcels:
    """Reads committed segments of this server's log. For one thread."""

    def __init__(self, line: NumberLine, table: SegmentTable, log: Device) -> None:
        self._line = line
        self._table = table  # guarded by the volume lock
        self._log = log

    def after(self, lsn: int) -> list[Parcel] | None:
        """Some segments from lsn on, which is where one begins or `committed`; None if the log does not have them any
        more. Raises DeviceError, DamagedPageError."""
        line = self._line
        with line.lock:
            if lsn < line.oldest:
                return None
            committed = line.committed
            if lsn >= committed:
                return []
            place = self._table.locate(lsn).place
        pages = min(_READ_PAGES, line.data_pages - place % line.data_pages)
        image = aligned_buffer(pages << PAGE_SHIFT)
        self._log.read_uncached_into(image, DATA_START + (place % line.data_pages << PAGE_SHIFT))
        with line.lock:
            if lsn < line.oldest:
                return None
        found = _parcels_in(image, lsn, committed, place)
        if not found:
            raise DamagedPageError(f"the segment at LSN {lsn} in log '{self._log.name}' cannot be read back", lsn)
        return found

    def checksum_before(self, lsn: int) -> int | None:
        """That of the descriptor whose segment ends at lsn; None if the log has none there. Raises DeviceError."""
        line = self._line
        with line.lock:
            if not line.oldest < lsn <= line.committed:
                return None
            place = self._table.locate(lsn - 1).place
        page = aligned_buffer(1 << PAGE_SHIFT)
        self._log.read_uncached_into(page, DATA_START + (place % line.data_pages << PAGE_SHIFT))
        try:
            descriptor = decode(page)
        except FormatError:
            return None
        return descriptor.checksum if descriptor.end_lsn == lsn else None


def _parcels_in(image: memoryview, lsn: int, end: int, place: int) -> list[Parcel]:
    """The segments from lsn to `end` that are whole in the image, which begins with the first of them."""
    found: list[tuple[Descriptor, int]] = []
    at, pages = 0, len(image) >> PAGE_SHIFT
    while at < pages and lsn < end:
        try:
            descriptor = decode(image[at << PAGE_SHIFT : at + 1 << PAGE_SHIFT])
        except FormatError:
            break
        if descriptor.first_lsn != lsn or at + descriptor.log_pages > pages:
            break
        found.append((descriptor, at))
        at += descriptor.log_pages
        lsn = descriptor.end_lsn
    last = len(found) - 1
    return [
        Parcel(
            one.first_lsn, one.end_lsn, place + at, place + at + one.log_pages,
            bytes(image[at << PAGE_SHIFT : at + one.log_pages << PAGE_SHIFT]), index == last,
        )
        for index, (one, at) in enumerate(found)
    ]  # fmt: skip


assert MAX_SEGMENT_PAGES <= _READ_PAGES

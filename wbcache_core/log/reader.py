# SPDX-License-Identifier: BSD-3-Clause
"""Reads pages and whole segments back from the log, and never returns one that fails its checksum.

Needs no lock: the caller looks up where things are under the volume lock, and
afterwards checks that `oldest` has not passed what was read.
"""

from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DamagedPageError, DeviceError, FormatError
from wbcache_core.format.frames import unpack, unpack_all
from wbcache_core.format.segment import FRAME_PAGES, Descriptor, decode
from wbcache_core.log.geometry import offset_of
from wbcache_core.memory.segment_table import Located
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

_FRAME_CACHE_ENTRIES = 1024
_LOAD_PAGES = 4 * MIB >> PAGE_SHIFT


class LogPiece(NamedTuple):
    """Pages of one segment with consecutive LSNs, and their checksums."""

    lsn: int
    segment: Located
    page_sums: list[int]


def page_views(view: memoryview) -> list[memoryview]:
    """One view per page."""
    return [view[at : at + PAGE_BYTES] for at in range(0, len(view), PAGE_BYTES)]


class LogReader:
    def __init__(self, device: Device, data_pages: int, uuid: bytes) -> None:
        self._device = device
        self._data_pages = data_pages
        self._uuid = uuid
        # First LSN -> (page count, frame lengths). Only single dict operations, so it needs no lock.
        self._frame_tables: dict[int, tuple[int, tuple[int, ...]]] = {}

    def offset_of(self, place: int) -> int:
        """Byte offset in the device of a position."""
        return offset_of(place, self._data_pages)

    def read_into(self, piece: LogPiece, view: memoryview) -> None:
        """Fill view with the pages of piece. Raises DeviceError, DamagedPageError."""
        if self._read(piece, view) and self._first_bad(piece, view) is None:
            return
        # The log is written past the page cache, which may still have an older copy of a page.
        fresh = self._read_uncached(piece, len(view))
        bad = self._first_bad(piece, fresh)
        if bad is not None:
            lsn = piece.lsn + bad
            raise DamagedPageError(f"the page with LSN {lsn} in log '{self._device.name}' fails its checksum", lsn)
        view[:] = fresh

    def read_page(self, segment: Located, lsn: int, page_sum: int, view: memoryview) -> bool:
        """Fill view with one page. Returns False, with view not filled, if a single read of an uncompressed segment is
        not enough."""
        if segment.encoded:
            return False
        try:
            self._device.read_into(view, self.offset_of(segment.place) + (lsn - segment.first_lsn << PAGE_SHIFT))
        except DeviceError:
            return False
        return xxh3_64_intdigest(view) == page_sum

    def _read(self, piece: LogPiece, view: memoryview) -> bool:
        """Fill view through the page cache; False if the pages cannot be decompressed."""
        if piece.segment.encoded:
            try:
                self._read_frames(piece, view)
            except DamagedPageError:
                return False
        else:
            offset = self.offset_of(piece.segment.place) + (piece.lsn - piece.segment.first_lsn << PAGE_SHIFT)
            self._device.read_into(view, offset)
        return True

    def _read_uncached(self, piece: LogPiece, length: int) -> memoryview:
        """The same pages past the page cache; a compressed segment is read completely."""
        segment, index = piece.segment, piece.lsn - piece.segment.first_lsn
        if segment.encoded:
            page_count, _ = self._frame_table(segment)
            image = aligned_buffer(1 + page_count << PAGE_SHIFT)
            self._load_encoded(segment, image)
            return image[index << PAGE_SHIFT :][:length]
        fresh = aligned_buffer(length)
        self._device.read_uncached_into(fresh, self.offset_of(segment.place + index))
        return fresh

    def _first_bad(self, piece: LogPiece, view: memoryview) -> int | None:
        sums = list(map(xxh3_64_intdigest, page_views(view)))
        if sums == piece.page_sums:
            return None
        return next(index for index, found in enumerate(sums) if found != piece.page_sums[index])

    def _read_frames(self, piece: LogPiece, view: memoryview) -> None:
        segment = piece.segment
        page_count, lengths = self._frame_table(segment)
        index = piece.lsn - segment.first_lsn - 1
        end = index + (len(view) >> PAGE_SHIFT)
        done = 0
        while index < end:
            number, start = divmod(index, FRAME_PAGES)
            stop = min(FRAME_PAGES, start + end - index)
            packed = memoryview(bytearray(lengths[number]))
            offset = self.offset_of(segment.place) + PAGE_BYTES + sum(lengths[:number])
            self._device.read_into(packed, offset)
            plain = self._unpack(packed, number, page_count, segment.first_lsn)
            view[done : done + (stop - start) * PAGE_BYTES] = plain[start * PAGE_BYTES : stop * PAGE_BYTES]
            done += (stop - start) * PAGE_BYTES
            index += stop - start

    def _unpack(self, packed: memoryview, number: int, page_count: int, first_lsn: int) -> memoryview:
        try:
            return memoryview(unpack(packed, number, page_count))
        except FormatError:
            raise self._damaged(first_lsn) from None

    def _frame_table(self, segment: Located) -> tuple[int, tuple[int, ...]]:
        table = self._frame_tables.get(segment.first_lsn)
        if table is None:
            descriptor = self.descriptor(segment)
            if len(self._frame_tables) >= _FRAME_CACHE_ENTRIES:
                self._frame_tables.clear()
            table = descriptor.page_count, descriptor.frame_lengths
            self._frame_tables[segment.first_lsn] = table
        return table

    def descriptor(self, segment: Located) -> Descriptor:
        """Read the descriptor of a segment. Raises DeviceError, DamagedPageError."""
        page = aligned_buffer(PAGE_BYTES)
        self._device.read_uncached_into(page, self.offset_of(segment.place))
        return self.decode(page, segment.first_lsn)

    def decode(self, page: memoryview, first_lsn: int) -> Descriptor:
        """The descriptor of the segment that starts with first_lsn. Raises DamagedPageError if it is not that."""
        try:
            descriptor = decode(page)
        except FormatError:
            raise self._damaged(first_lsn) from None
        if descriptor.first_lsn != first_lsn or descriptor.uuid != self._uuid:
            raise self._damaged(first_lsn)
        return descriptor

    def _damaged(self, first_lsn: int) -> DamagedPageError:
        return DamagedPageError(
            f"the segment with LSN {first_lsn} in log '{self._device.name}' cannot be read back as it was written",
            first_lsn,
        )

    def load(self, segments: list[Located], end_lsn: int, image: memoryview, start_lsn: int) -> None:
        """Put whole segments, descriptors and uncompressed pages, where their LSNs are in an image that begins at
        start_lsn.

        The segments are in order, the last one ends at end_lsn; image is page aligned. Page checksums are left
        to the caller. Raises DeviceError, DamagedPageError.
        """
        index = 0
        while index < len(segments):
            first = segments[index]
            if first.encoded:
                self._load_encoded(first, image[first.first_lsn - start_lsn << PAGE_SHIFT :])
                index += 1
                continue
            stop, end = self._contiguous(segments, index, end_lsn)
            view = image[first.first_lsn - start_lsn << PAGE_SHIFT : end - start_lsn << PAGE_SHIFT]
            self._device.read_uncached_into(view, self.offset_of(first.place))
            index = stop

    def _contiguous(self, segments: list[Located], index: int, end_lsn: int) -> tuple[int, int]:
        """How far uncompressed segments, from index on, follow each other directly: index after the last, and its end
        LSN."""
        first = segments[index]
        stop = index + 1
        while stop < len(segments):
            following = segments[stop]
            pages = following.first_lsn - first.first_lsn
            if (
                following.encoded
                or following.place != first.place + pages
                or following.place % self._data_pages == 0
                or pages >= _LOAD_PAGES
            ):
                return stop, following.first_lsn
            stop += 1
        return stop, end_lsn

    def _load_encoded(self, segment: Located, image: memoryview) -> None:
        offset = self.offset_of(segment.place)
        self._device.read_uncached_into(image[:PAGE_BYTES], offset)
        descriptor = self.decode(image[:PAGE_BYTES], segment.first_lsn)
        packed = aligned_buffer((descriptor.log_pages - 1) * PAGE_BYTES)
        self._device.read_uncached_into(packed, offset + PAGE_BYTES)
        done = PAGE_BYTES
        try:
            for plain in unpack_all(packed, descriptor.frame_lengths, descriptor.page_count):
                image[done : done + len(plain)] = plain
                done += len(plain)
        except FormatError:
            raise self._damaged(segment.first_lsn) from None

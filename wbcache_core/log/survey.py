# SPDX-License-Identifier: BSD-3-Clause
"""Every valid segment descriptor of a log, found by reading all of it; for logs that recovery cannot follow.

A segment is identified by what links it to its neighbours: volume, LSNs, its
own checksum and that of the one before. Its physical page in the data area
serves as its position.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sortedcontainers import SortedDict

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.segment import MAX_ENTRIES, RAW, Descriptor, decode, indices_with_magic
from wbcache_core.format.superblock import DATA_START, Superblock
from wbcache_core.log.epochs import EpochOrder
from wbcache_core.log.geometry import fit, next_places
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE
from wbcache_core.memory.segment_table import Located
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

_READ_BYTES = MIB


class Segment(NamedTuple):
    """A segment as its descriptor says, without the entries; `page` counts from the start of the data area.

    A segment that is not full ends its commit (generation): only one without room for a page or a range is followed by
    another one of the same commit.
    """

    page: int
    log_pages: int
    uuid: bytes
    first_lsn: int
    end_lsn: int
    page_count: int
    is_full: bool
    encoded: bool
    generation: int
    time: Reading
    committed: int
    previous: int
    checksum: int
    epoch: Epoch

    @property
    def time_ns(self) -> int:
        """What the wall clock said."""
        return self.time.wall_ns

    @property
    def offset(self) -> int:
        """Byte offset of the descriptor in the log."""
        return DATA_START + (self.page << PAGE_SHIFT)

    @property
    def located(self) -> Located:
        return Located(self.first_lsn, self.page, self.encoded)


def _is_full(descriptor: Descriptor) -> bool:
    pages = descriptor.page_count
    entries = len(descriptor.entry_words)
    return entries == MAX_ENTRIES or entries - pages >= MAX_RANGES_PER_PAGE * (1 + pages)


def _segment(descriptor: Descriptor, page: int) -> Segment:
    return Segment(
        page, descriptor.log_pages, descriptor.uuid, descriptor.first_lsn, descriptor.end_lsn, descriptor.page_count,
        _is_full(descriptor), descriptor.encoding != RAW, descriptor.generation, descriptor.reading,
        descriptor.committed, descriptor.previous, descriptor.checksum, descriptor.epoch,
    )  # fmt: skip


def _pages_with_magic(log: Device, count: int, advance: Callable[[int], None]) -> Iterator[tuple[int, memoryview]]:
    """(Page number, page) of each of the first `count` pages that looks like a descriptor; valid until the next one.

    advance() gets the number of bytes read. Raises DeviceError.
    """
    buffer = aligned_buffer(_READ_BYTES)
    for start in range(0, count, _READ_BYTES >> PAGE_SHIFT):
        end = min(_READ_BYTES, count - start << PAGE_SHIFT)
        log.read_uncached_into(buffer[:end], DATA_START + (start << PAGE_SHIFT))
        for index in indices_with_magic(buffer[:end]):
            yield start + index, buffer[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT]
        advance(end)


class Survey:
    """What a scan found: segments of all volumes that ever used the log, unless they have been overwritten.

    Some may be images: pages of cached data, such as a copy of a log. See forget_images().
    """

    def __init__(self, log: Device, data_pages: int, advance: Callable[[int], None]) -> None:
        """Read the whole data area. Raises DeviceError."""
        self.data_pages = data_pages
        self._broken: set[int] = set()
        self._log = log
        self._by_page: SortedDict[int, Segment] = SortedDict()
        for page, view in _pages_with_magic(log, data_pages, advance):
            try:
                self._by_page[page] = _segment(decode(view), page)
            except FormatError:
                self._broken.add(page)

    def __contains__(self, segment: Segment) -> bool:
        return segment.page in self._by_page

    def offset_of(self, page: int) -> int:
        """Byte offset in the log."""
        return DATA_START + (page << PAGE_SHIFT)

    def was_descriptor(self, page: int) -> bool:
        """Whether a page is a descriptor or looks like one."""
        return page in self._by_page or page in self._broken

    def forget_images(self, chain: list[Segment]) -> None:
        """Forget what was found in the pages of these segments."""
        for segment in chain:
            inside = range(segment.page + 1, segment.page + segment.log_pages)
            if inside:
                for page in list(self._by_page.irange(inside.start, inside.stop - 1)):
                    del self._by_page[page]

    @property
    def volumes(self) -> set[bytes]:
        """The UUIDs that occur."""
        return {segment.uuid for segment in self._by_page.values()}

    def segments_of(self, uuid: bytes) -> list[Segment]:
        """All segments of a volume in order of LSN."""
        mine = [segment for segment in self._by_page.values() if segment.uuid == uuid]
        return sorted(mine, key=lambda segment: (segment.first_lsn, segment.time_ns))

    def chain_from(self, superblock: Superblock) -> list[Segment]:
        """The segments from `destaged` on, each containing the checksum of the one before; as recovery follows them."""
        chain: list[Segment] = []
        uuid, order = superblock.uuid, EpochOrder(superblock)
        lsn, place, previous = superblock.destaged, superblock.destaged_place, superblock.destaged_previous
        limit = place + self.data_pages
        while True:
            for candidate in next_places(place, self.data_pages):
                segment = self._by_page.get(candidate % self.data_pages)
                if (
                    segment
                    and (segment.uuid, segment.first_lsn, segment.previous) == (uuid, lsn, previous)
                    and candidate + segment.log_pages <= limit
                    and fit(candidate, segment.log_pages, self.data_pages) == candidate
                    and order.admits(lsn, previous, segment.epoch)
                ):
                    break
            else:
                return chain
            chain.append(segment)
            lsn, place, previous = segment.end_lsn, candidate + segment.log_pages, segment.checksum

    def chain_to(self, last: Segment) -> list[Segment]:
        """The segments up to `last`, as far back as the chain of checksums can be followed."""
        ends: dict[tuple[int, int], list[Segment]] = {}
        for segment in self.segments_of(last.uuid):
            ends.setdefault((segment.end_lsn, segment.checksum), []).append(segment)
        chain = [last]
        while True:
            first = chain[-1]
            for segment in ends.get((first.first_lsn, first.previous), ()):
                following = next_places(segment.page + segment.log_pages, self.data_pages)
                if first.page in [place % self.data_pages for place in following]:
                    chain.append(segment)
                    break
            else:
                return chain[::-1]

    def descriptor_of(self, segment: Segment) -> Descriptor:
        """The whole descriptor, read again. Raises DeviceError, FormatError."""
        page = aligned_buffer(PAGE_BYTES)
        self._log.read_uncached_into(page, segment.offset)
        return decode(page)

# SPDX-License-Identifier: BSD-3-Clause
"""The server's ring, read by a worker: what was written lately need not be read from the log.

The server goes on writing into it meanwhile. So a copy is only a guess until its checksums have been compared
(flow/batch_executor.py), and where it is wrong the log is read.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wbcache_core.device.shared_memory import ReadableFile
from wbcache_core.format.shared_ring import Layout
from wbcache_core.memory.segment_table import Located
from wbcache_core.units import PAGE_SHIFT


class OpenRing(NamedTuple):
    """A ring in shared memory, for another process that is handed its descriptor."""

    file: ReadableFile
    layout: Layout

    @property
    def descriptors(self) -> list[int]:
        """To be handed over."""
        return [self.file.fd]

    def with_descriptors(self, numbers: Iterator[int]) -> "OpenRing":
        """The same in the other process."""
        return self._replace(file=ReadableFile(next(numbers)))


class RingFile:
    """See RecentSegments. For one thread."""

    def __init__(self, opened: OpenRing, floor: Callable[[], int]) -> None:
        """The slots of LSNs below floor() may have been used again; it may be a moment late."""
        self._file = opened.file
        self._pages, self._slots_at = opened.layout.ring_pages, opened.layout.journal_bytes
        self._floor = floor

    def copy_newest(self, segments: list[Located], end: int, image: memoryview) -> int:
        start = segments[0].first_lsn
        index = _first_from(segments, self._floor())
        if index < len(segments):
            first = segments[index].first_lsn
            if not self._read(first, image[first - start << PAGE_SHIFT : end - start << PAGE_SHIFT]):
                return len(segments)
            index = max(index, _first_from(segments, self._floor()))
        return index

    def _read(self, lsn: int, view: memoryview) -> bool:
        """Fill view, whole pages, from the slots from lsn. False if the file cannot be read."""
        while view:
            slot = lsn % self._pages
            piece = view[: self._pages - slot << PAGE_SHIFT]
            count = self._file.read_into(piece, self._slots_at + (slot << PAGE_SHIFT)) >> PAGE_SHIFT
            if not count:
                return False
            lsn += count
            view = view[count << PAGE_SHIFT :]
        return True


def _first_from(segments: list[Located], lsn: int) -> int:
    """Index of the first segment that begins at or above lsn."""
    return bisect_left(segments, lsn, key=lambda segment: segment.first_lsn)

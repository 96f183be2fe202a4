# SPDX-License-Identifier: BSD-3-Clause
"""Reads the log from segment to segment, for recovery: many small ones at once, and the next ones in the background."""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DeviceError
from wbcache_core.format.segment import indices_with_magic
from wbcache_core.log.reader import LogReader
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

_FIRST_PAGES = MIB >> PAGE_SHIFT
_NEXT_PAGES = 4 * MIB >> PAGE_SHIFT
"""Read while the previous pages are examined. Each piece costs the start of a thread; a MiB would be too small."""
_SMALL_SEGMENT_PAGES = 32
"""In a larger segment, the pages after the descriptor are not worth reading."""


class _Piece:
    """Consecutive pages from position `first` to `end`, in memory of their own."""

    __slots__ = ("buffer", "end", "first")

    def __init__(self) -> None:
        self.buffer = memoryview(b"")
        self.first = self.end = 0

    def load(self, device: Device, offset: int, first: int, count: int) -> None:
        """Fill from byte `offset` of the device. If it raises DeviceError, it is empty."""
        self.first = self.end = first
        if len(self.buffer) < count << PAGE_SHIFT:
            self.buffer = aligned_buffer(count << PAGE_SHIFT)
        device.read_uncached_into(self.buffer[: count << PAGE_SHIFT], offset)
        self.end = first + count


class LogWindow:
    """For one thread, which also leaves the context. A thread that reads ahead has `_next` to itself until it is
    joined."""

    def __init__(self, device: Device, reader: LogReader, data_pages: int, reads_ahead: bool = False) -> None:
        """With reads_ahead the device must tolerate two threads, and reads that nobody asked for."""
        self._device = device
        self._reader = reader
        self._data_pages = data_pages
        self._here, self._next = _Piece(), _Piece()
        self._thread: threading.Thread | None = None
        self._reads_ahead = reads_ahead
        self._only_descriptors = False

    def __enter__(self) -> "LogWindow":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._join()

    def expect(self, log_pages: int) -> None:
        """The segment found last has that many pages, and the following ones probably have too."""
        self._only_descriptors = log_pages > _SMALL_SEGMENT_PAGES

    def page(self, place: int) -> memoryview:
        """The page at a position; valid until the next call. Raises DeviceError."""
        here = self._here
        if not here.first <= place < here.end:
            here = self._move_to(place)
        start = place - here.first << PAGE_SHIFT
        return here.buffer[start : start + PAGE_BYTES]

    def _move_to(self, place: int) -> _Piece:
        before = self._here
        goes_on = before.first < before.end <= place <= before.end + _SMALL_SEGMENT_PAGES
        self._join()
        if self._next.first <= place < self._next.end:
            self._here, self._next = self._next, before
        else:
            self._load(before, place, 1 if self._only_descriptors else _FIRST_PAGES)
        if goes_on and self._reads_ahead and not self._only_descriptors:
            self._start()
        return self._here

    def _start(self) -> None:
        """Read ahead, unless no more threads can be started."""
        thread = threading.Thread(
            target=self._load_next, name="wbcache-recovery", args=(self._next, self._here.end), daemon=True
        )
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _load(self, piece: _Piece, place: int, most: int) -> None:
        """Fill with the pages from a position to at most the end of the lap."""
        count = min(most, self._data_pages - place % self._data_pages)
        piece.load(self._device, self._reader.offset_of(place), place, count)

    def _load_next(self, piece: _Piece, place: int) -> None:
        # Perhaps nobody needs these pages; whoever does reads them again and gets the error.
        with contextlib.suppress(DeviceError, OSError):
            self._load(piece, place, _NEXT_PAGES)

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def pages_with_magic(self, first: int, last: int) -> Iterator[memoryview]:
        """The pages in [first, last) that look like descriptors; each valid until the next one. Raises DeviceError."""
        piece = _Piece()
        while first < last:
            self._load(piece, first, min(_FIRST_PAGES, last - first))
            pages = piece.buffer[: piece.end - first << PAGE_SHIFT]
            for index in indices_with_magic(pages):
                yield pages[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT]
            first = piece.end

# SPDX-License-Identifier: BSD-3-Clause
"""Compresses the frames of a segment on several CPUs at once, and skips data that does not compress.

Not thread-safe: only the leader of a commit uses it.
"""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard

from wbcache_core.format.frames import pack
from wbcache_core.format.segment import FRAME_PAGES
from wbcache_core.units import PAGE_SHIFT, pages_of

_log = logging.getLogger("wbcache")

_MOST_THREADS = 4
_FEWEST_FRAMES = 4
"""With fewer (256 KiB) it does not pay to wake another thread."""
_PROBE_EVERY = 8
"""After a segment that did not compress, one in this many frames of the next segment is tried."""


def _cpu_count() -> int:
    """The CPUs that this process may use, if the system tells."""
    try:
        return len(os.sched_getaffinity(0))
    except OSError:
        return os.cpu_count() or 1


class FrameCompressor:
    def __init__(self, level: int) -> None:
        self._threads = min(_cpu_count(), _MOST_THREADS)
        self._compressors = [zstandard.ZstdCompressor(level=level) for _ in range(_MOST_THREADS)]
        """One for each part of a segment: a compressor serves one thread at a time."""
        self._pool = ThreadPoolExecutor(_MOST_THREADS, "wbcache-zstd")
        self._in_vain = False
        """The last segment did not compress."""

    def close(self) -> None:
        """End the threads; compress() still works without them."""
        self._threads = 1
        self._pool.shutdown()

    def compress(self, pages: list[memoryview]) -> list[bytes] | None:
        """The frames of a segment's pages, or None if they would not save a page of log."""
        if self._in_vain and not self._promises(pages):
            return None
        frames = self._pack(pages)
        self._in_vain = pages_of(sum(map(len, frames))) >= len(pages)
        return None if self._in_vain else frames

    def _promises(self, pages: list[memoryview]) -> bool:
        """Whether one of the frames that are tried shrinks."""
        for start in range(0, len(pages), _PROBE_EVERY * FRAME_PAGES):
            probe = pages[start : start + FRAME_PAGES]
            if len(self._pack_part(0, probe)[0]) < len(probe) << PAGE_SHIFT:
                return True
        return False

    def _pack(self, pages: list[memoryview]) -> list[bytes]:
        frame_count = -(-len(pages) // FRAME_PAGES)
        if self._threads == 1 or frame_count < _FEWEST_FRAMES:
            return self._pack_part(0, pages)
        step = -(-frame_count // self._threads) * FRAME_PAGES
        parts = [pages[start : start + step] for start in range(0, len(pages), step)]
        others: list[Future[list[bytes]]] = []
        try:
            for number in range(1, len(parts)):
                others.append(self._pool.submit(self._pack_part, number, parts[number]))
        except (RuntimeError, MemoryError):
            # No more threads can be started. The pool keeps the work it was given, so it has to end before this thread
            # continues.
            self._threads = 1
            self._pool.shutdown(cancel_futures=True)
            _log.warning("cannot start threads: commits are compressed by a single thread from now on")
        frames = self._pack_part(0, parts[0])
        for number in range(1, len(parts)):
            other = others[number - 1] if number <= len(others) else None
            frames += other.result() if other and not other.cancelled() else self._pack_part(0, parts[number])
        return frames

    def _pack_part(self, number: int, pages: list[memoryview]) -> list[bytes]:
        """The frames of that part of a segment, in any thread."""
        return pack(self._compressors[number], pages)

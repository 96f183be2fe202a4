# SPDX-License-Identifier: BSD-3-Clause
"""The memory of a ring with `ring-size=auto`: taken ahead of the writers, given back when the machine runs short.

What is committed is in the ring only to be read sooner, so it can be dropped
at any time. The thread decides how many pages the ring keeps
(`NumberLine.resize_ring`), has memory allocated for the next slots before
writers get there, and releases the slots of pages that are kept no longer.
"""

import logging
import threading
from collections.abc import Callable

from wbcache_core.background import let_requests_run
from wbcache_core.memory import memory_limit
from wbcache_core.memory.cursors import NO_MARK, NumberLine
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_size import share
from wbcache_core.threads import StartTogether
from wbcache_core.units import MIB, PAGE_SHIFT

_log = logging.getLogger("wbcache")

AHEAD_PAGES = 32 * MIB >> PAGE_SHIFT
"""So much is allocated ahead of the writers; more when they have used half of it."""
_AT_FIRST = 4
"""But not more than so many times what they have written: most servers write little."""
LOOK_SECONDS = 10.0
"""A ring that holds more than the least looks this often whether memory has become short."""
_PIECE_PAGES = 2 * MIB >> PAGE_SHIFT
"""Released under one hold of the lock, or allocated in one call: threads that need the address space wait for it."""


class RingKeeper:
    """`low` and `high` belong to the thread; others may read them, and see a value of a moment ago."""

    def __init__(
        self,
        line: NumberLine,
        ring: RingBuffer,
        unused: Callable[[], int] = memory_limit.unused,
        ahead_pages: int = AHEAD_PAGES,
        is_new: bool = True,
    ) -> None:
        """For a line that has written nothing into the ring yet. If another server has, any slot may have memory."""
        self._line = line
        self._ring = ring
        self._unused = unused
        self._ahead = min(ahead_pages, ring.pages)
        self.low = line.head - (0 if is_new else ring.pages)
        self.high = line.head
        """Only slots of LSNs from low to high may have memory."""
        self._first = self._looked_at = line.head
        """The head at the last look."""
        self._thread: threading.Thread | None = None  # only start() and join() use it

    @property
    def held_bytes(self) -> int:
        """Memory that the ring has now."""
        return min(self.high - self.low, self._ring.pages) << PAGE_SHIFT

    def start(self, together: StartTogether) -> None:
        """The thread, as one of several. Raises NoThreadError."""
        self._thread = together.add("wbcache-ring", self._run)

    def join(self) -> None:
        """Wait for the thread; the line has been stopped. Idempotent."""
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait():
                self.look()
        except Exception:
            # The ring works without it, and takes all its memory.
            _log.exception("internal error in the ring's memory, please report it")

    def _wait(self) -> bool:
        """Return True when it is time to look, False if the server is stopping."""
        line = self._line
        is_whole = self.high - self.low >= self._ring.pages
        may_give_back = self.high - self.low > line.volatile_pages + self._ahead
        with line.lock:
            # Until somebody writes, the ring takes nothing.
            line.ring_mark = NO_MARK if is_whole else max(self.high - self._ahead // 2, self._looked_at)
            while not line.stopping:
                if line.head > line.ring_mark or not line.ring_wanted.wait(LOOK_SECONDS if may_give_back else None):
                    return True
            return False

    def look(self) -> None:
        """Compare with what is unused now; resize, release, allocate."""
        line, most = self._line, self._ring.pages
        may_take = share(self._unused() + self.held_bytes) >> PAGE_SHIFT
        with line.lock:
            # A log that has failed may not be readable for long.
            if not line.log_error:
                line.resize_ring(most if may_take >= most else max(may_take - self._ahead, line.volatile_pages))
            head, floor = line.head, line.ring_floor
        self._looked_at = head
        # Writers may have been faster.
        self.high = max(self.high, head)
        self.low = max(self.low, self.high - most)
        self._release(floor)
        self._allocate(min(head + min(self._ahead, _AT_FIRST * (head - self._first)), self.low + most))

    def _release(self, floor: int) -> None:
        """Release the slots of LSNs below a floor that the line has had: they are not read any more."""
        line, most = self._line, self._ring.pages
        while self.low < floor:
            with line.lock:
                # Slots that the head has come to again have newer pages, and no writer moves the head meanwhile.
                first = max(self.low, line.head - most)
                self.low = min(first + _PIECE_PAGES, floor)
                if first < self.low:
                    self._ring.release(first, self.low - first)
            let_requests_run()

    def _allocate(self, end: int) -> None:
        while self.high < end:
            count = min(_PIECE_PAGES, end - self.high)
            self._ring.allocate(self.high, count)
            self.high += count

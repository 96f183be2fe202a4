# SPDX-License-Identifier: BSD-3-Clause
"""Slows writers smoothly while the log is filling up, down to the rate at which the origin takes data.

The delay of a page grows linearly from nothing at the high watermark to the
time that destaging takes for a page when the log is full. So a writer meets
no wall, and is never held to less than what the origin really does.
"""

import threading
import time

from wbcache_core.number_line import NumberLine
from wbcache_core.segment_format import MAX_SEGMENT_PAGES

_LONGEST_PAUSE = 1.0
_SMOOTHING = 0.3


class Throttle:
    """`_lock` guards `_next` and `_seconds_per_page`."""

    def __init__(self, line: NumberLine, high_pages: int) -> None:
        self._lock = threading.Lock()
        self._line = line
        self._high_pages = high_pages
        self._span = max(line.data_pages - MAX_SEGMENT_PAGES - high_pages, 1)
        self._next = 0.0
        self._seconds_per_page = 0.0
        self._stopped = threading.Event()

    def note_destaged(self, pages: int, seconds: float) -> None:
        """The destager moved on by that many LSNs in that time."""
        if pages:
            with self._lock:
                sample = seconds / pages
                known = self._seconds_per_page
                self._seconds_per_page = known + _SMOOTHING * (sample - known) if known else sample

    def pause(self, pages: int) -> None:
        """Wait as long as a write of that many pages has to. No lock held."""
        fullness = (self._line.dirty_pages - self._high_pages) / self._span
        if fullness <= 0:
            return
        with self._lock:
            now = time.monotonic()
            delay = min(min(fullness, 1.0) * self._seconds_per_page * pages, _LONGEST_PAUSE)
            self._next = max(self._next, now) + delay
            wait = min(self._next - now, _LONGEST_PAUSE)
        self._stopped.wait(wait)

    def stop(self) -> None:
        """End all pauses, now and from now on."""
        self._stopped.set()

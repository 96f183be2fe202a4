# SPDX-License-Identifier: BSD-3-Clause
"""Slows writers smoothly while the log is filling up, down to the rate at which the origin takes data.

The delay of a page grows linearly from nothing at the high watermark to the
time that destaging takes for a page when the log is full. So a writer never
comes to a sudden stop, and is never slowed below the actual rate of the origin.
"""

import logging
import threading
import time
from time import monotonic_ns as now_ns

from wbcache_core.counters import Counters
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.memory.cursors import NumberLine

_log = logging.getLogger("wbcache")

_LONGEST_PAUSE = 1.0
"""The longest time in seconds that a write waits, and how far ahead pauses are booked."""
_SMOOTHING = 0.3


class Throttle:
    """`_lock` guards `_next`, `_slowing`, and `_seconds_per_page`, which is also read without it."""

    def __init__(self, line: NumberLine, counters: Counters) -> None:
        self._lock = threading.Lock()
        self._line = line
        self._counters = counters
        self._next = 0.0
        """Until when writers have booked pauses, in seconds of time.monotonic(): the next one waits from there on."""
        self._seconds_per_page = 0.0
        self._slowing = False
        self._stopped = threading.Event()

    def note_destaged(self, pages: int, seconds: float) -> None:
        """The destager advanced by that many LSNs in that time."""
        with self._lock:
            sample = seconds / pages
            known = self._seconds_per_page
            self._seconds_per_page = known + _SMOOTHING * (sample - known) if known else sample
            ended = self._slowing and self._fullness() <= 0
            if ended:
                self._slowing = False
                self._next = 0.0
        if ended:
            _log.debug("throttling ended")

    @property
    def seconds_per_page(self) -> float:
        """How long destaging has recently taken per page; 0 if nothing has been destaged yet."""
        return self._seconds_per_page

    def pause(self, pages: int) -> None:
        """Wait for as long as a write of that many pages has to. No lock held."""
        fullness = self._fullness()
        if fullness <= 0:
            return
        with self._lock:
            now = time.monotonic()
            delay = min(min(fullness, 1.0) * self._seconds_per_page * pages, _LONGEST_PAUSE)
            # Nobody waits longer, so anything booked beyond that would only be paid by later writers.
            self._next = min(max(self._next, now) + delay, now + _LONGEST_PAUSE)
            wait = self._next - now
            began = not self._slowing
            self._slowing = True
        if began:
            _log.debug("throttling: %d of %d pages of log are dirty", self._line.dirty_pages, self._line.data_pages)
        paused_at = now_ns()
        self._stopped.wait(wait)
        self._counters.throttled.note(now_ns() - paused_at)

    def _fullness(self) -> float:
        """0 at the high watermark, 1 when the log is full; a benign race with the cursors."""
        line = self._line
        high_pages = line.policy.high_pages
        return (line.dirty_pages - high_pages) / max(line.data_pages - MAX_SEGMENT_PAGES - high_pages, 1)

    def stop(self) -> None:
        """End all pauses, now and from now on."""
        self._stopped.set()

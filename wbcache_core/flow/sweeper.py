# SPDX-License-Identifier: BSD-3-Clause
"""Makes the map forget what the origin has, and the C library return the memory.

Pages stay in the map as long as the log has them: they are read from there. Trims and zeros are dropped as soon as they
are on the origin, where there is nothing to read either: there can be a thousand times as many of them as of pages, and
a volume that is trimmed and left alone would keep them for ever.
"""

from collections.abc import Callable

from wbcache_core.background import let_requests_run
from wbcache_core.memory import heap
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NumberLine

_AT_ONCE = 32
"""Leaves and spans that are examined in one hold of the lock."""
_PAUSE_AFTER = 256
_LEAST_CLEARINGS = 1024
"""Fewer trims and zeros do not matter: they take some hundred bytes each."""
_SHARE = 8
"""Nor do fewer than this part of the map, because all of it has to be examined."""
_PART_OF_LOG = 16
"""If the history holds the rest back, this much of the log has to be destaged between two sweeps."""
_MUCH = 4096
"""This many dropped leaves and spans are a MiB."""


class Sweeper:
    """Not thread-safe: only the destager's thread uses it. The volume lock guards what it works on."""

    def __init__(self, line: NumberLine, locations: LocationMap) -> None:
        self._line = line
        self._map = locations
        self._next: int | None = None
        """Where an interrupted sweep continues."""
        self._swept_to = line.destaged
        self._dropped = 0
        """Leaves and spans dropped since memory was last returned."""

    def is_wanted(self) -> bool:
        """Whether a sweep, now that there is nothing to destage, would free a significant amount of memory. Lock
        held."""
        return self._next is not None or self._is_drained_of_much() or self._has_many_clearings()

    def _is_drained_of_much(self) -> bool:
        """Whether it is time to return the memory of what was dropped. Lock held."""
        return self._dropped >= _MUCH and self._line.destaged >= self._line.committed

    def _has_many_clearings(self) -> bool:
        """Lock held."""
        line = self._line
        fresh = line.destaged - self._swept_to
        return (
            self._map.clearings >= max(_LEAST_CLEARINGS, len(self._map) // _SHARE)
            and fresh > 0
            and (line.destaged >= line.committed or fresh >= line.data_pages // _PART_OF_LOG)
        )

    def sweep(self) -> None:
        """Sweep the whole map, after log space was reclaimed: at least a quarter of the log has been written. No lock
        held."""
        self._next = 0
        self._go_on(lambda: False)

    def sweep_while_idle(self, is_busy: Callable[[], bool]) -> None:
        """Sweep if it is wanted, until is_busy(), which is called with the lock held; then call this again. No lock
        held."""
        with self._line.lock:
            if self._next is None and self._has_many_clearings():
                self._next = 0
        self._go_on(is_busy)
        with self._line.lock:
            is_time = self._next is None and self._is_drained_of_much()
        if is_time:
            self._dropped = 0
            heap.give_back()

    def _go_on(self, is_busy: Callable[[], bool]) -> None:
        line, locations = self._line, self._map
        looked_at = 0
        while self._next is not None:
            with line.lock:
                if line.destager_must_stop or is_busy():
                    return
                if self._next == 0:
                    self._swept_to = line.destaged
                before = len(locations)
                self._next = locations.sweep(self._next, _AT_ONCE, line.oldest, line.destaged)
                self._dropped += before - len(locations)
            looked_at += _AT_ONCE
            if looked_at % _PAUSE_AFTER == 0:
                let_requests_run()

# SPDX-License-Identifier: BSD-3-Clause
"""A drain while the server runs: new writes wait for the origin, and everything before them is destaged."""

import threading

from wbcache_core.errors import ControlError
from wbcache_core.flow.admission import check_writable
from wbcache_core.flow.retention import Pins
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.server.history import Facts
from wbcache_core.server.settings import Settings
from wbcache_core.units import PAGE_SHIFT

OFF, DRAINING, DRAINED, INCOMPLETE = "off", "draining", "drained", "incomplete"
"""Incomplete: the origin has everything except what it rejects."""


class Drain:
    """`_lock` guards `_start`, and is held from a look at `drain_target` to its change."""

    def __init__(self, line: NumberLine, pins: Pins, settings: Settings) -> None:
        self._lock = threading.Lock()
        self._line = line
        self._pins = pins
        self._settings = settings
        self._start = 0
        """The LSN from which it destages."""

    def begin(self) -> Facts:
        """Make writes wait for the origin from now on, and have everything before them destaged; returns how far that
        is. Does not wait for it. If it has begun already, that one continues.

        It ends under any load, since nothing new becomes dirty as long as the origin works. Raises ControlError if a
        tag or snapshot would hold it up or be lost, and whatever a writer would get.
        """
        line = self._line
        with self._lock:
            with line.lock:
                if line.drain_target:
                    return self._facts()
                check_writable(line)
                self._check_pins()
            self._settings.drain(True)
            with line.lock:
                self._start, line.drain_target = line.destaged, line.head
                line.origin_target = max(line.origin_target, line.head)
                line.request_commit()
                line.destage_wanted.notify()
                return self._facts()

    def cancel(self) -> Facts:
        """Let writes wait for what the parameters say. What is being destaged at the moment is completed."""
        with self._lock:
            self._settings.drain(False)
            with self._line.lock:
                self._line.drain_target = 0
                return self._facts()

    def facts(self) -> Facts:
        """How far it is, ready for JSON."""
        with self._lock, self._line.lock:
            return self._facts()

    def _facts(self) -> Facts:
        """Both locks held."""
        destaged, target = self._line.destaged, self._line.drain_target
        incomplete = self._line.origin_incomplete
        left, total = max(target - destaged, 0), max(target - self._start, 0)
        state = OFF if not target else DRAINING if left else INCOMPLETE if incomplete else DRAINED
        return {
            "state": state, "bytes_left": left << PAGE_SHIFT, "bytes_total": total << PAGE_SHIFT,
            "incomplete": incomplete if state == INCOMPLETE else None,
        }  # fmt: skip

    def _check_pins(self) -> None:
        """Volume lock held. Raises ControlError."""
        if self._pins.tags:
            names = ", ".join(f"'{tag.name}'" for tag in self._pins.tags)
            raise ControlError(f"a drain would end what is tagged: {names}; remove the tags (wbcache untag) first")
        if self._pins.snapshots and self._line.policy.hold:
            raise ControlError(
                "open snapshots hold the origin back, as history-full=hold wants it: close them first, or set "
                "history-full=drop"
            )

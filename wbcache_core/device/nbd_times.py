# SPDX-License-Identifier: BSD-3-Clause
"""How long each part of talking to an NBD origin may take. docs/nbd-origins.md has all of it in one table."""

import threading
import time
from typing import NamedTuple

_FLUSH_FACTOR = 10
"""A flush may write out everything that a server holds back."""
_MOST_RAISED = 64
_RAISED_FOR = 20
"""A raised limit lasts this many times itself, or until a flush is answered."""


class NbdTimes(NamedTuple):
    """Seconds. docs/nbdkit-wbcache-plugin.1 describes each for users, as a parameter."""

    settle: float = 30.0
    """How long after the end of a connection the server may still carry out requests from it."""
    timeout: float = 30.0
    """A connection is given up if nothing arrives on it for this long while a request is in progress."""
    connect: float = 20.0
    """How long it may take until a new connection can be used."""


class Patience:
    """How long the requests to one origin may go unanswered. A request that was given up gets twice the time when
    repeated, so that an origin that is merely slow gets there. `_lock` guards all fields that change."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._factor = 1
        self._flush_factor = 1
        self._raised_at = self._raised_until = 0.0
        self._flush_raised_at = 0.0

    def limit(self, is_flush: bool) -> float:
        """Seconds without a sign of life."""
        with self._lock:
            if is_flush:
                return self._timeout * _FLUSH_FACTOR * self._flush_factor
            if time.monotonic() > self._raised_until:
                self._factor = 1
            return self._timeout * self._factor

    def note_given_up(self, is_flush: bool, since: float) -> None:
        """A request with that limit was given up: of many that wait at the same time only one counts."""
        with self._lock:
            now = time.monotonic()
            if is_flush:
                if since > self._flush_raised_at:
                    self._flush_factor = min(2 * self._flush_factor, _MOST_RAISED)
                    self._flush_raised_at = now
            elif since > self._raised_at:
                self._factor = min(2 * self._factor, _MOST_RAISED)
                self._raised_at = now
                self._raised_until = now + _RAISED_FOR * self._factor * self._timeout

    def note_flushed(self) -> None:
        """A flush was answered: everything asked of the origin before is done."""
        with self._lock:
            self._factor = self._flush_factor = 1

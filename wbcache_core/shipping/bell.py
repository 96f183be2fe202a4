# SPDX-License-Identifier: BSD-3-Clause
"""Wakes a thread that waits for descriptors, from any other thread."""

import contextlib
import os
import select


class Bell:
    """Wakes the thread that waits on a link, from any thread, also while there is no link."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closed = False  # close() alone writes it, after everybody who rings has ended

    def ring(self) -> None:
        """Whoever waits, or waits next, returns at once."""
        if self._is_closed:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.fd, 1)

    def _silence(self) -> None:
        """What rang so far has been heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def wait(self, seconds: float, descriptor: int = -1, events: int = 0) -> int:
        """Return when it rings, or something of `events`, as poll(2) names them, happens to the descriptor, or after so
        many seconds; returns what has happened to the descriptor."""
        # Not select(), which knows descriptors below 1024 only.
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if descriptor >= 0:
            poll.register(descriptor, events)
        happened = dict(poll.poll(seconds * 1000))
        if self.fd in happened:
            self._silence()
        return happened.get(descriptor, 0)

    def close(self) -> None:
        """Nobody waits any more; who rings does nothing. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self.fd)

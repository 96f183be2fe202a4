# SPDX-License-Identifier: BSD-3-Clause
"""What serves at present, which another may replace while the server runs, and a stop that may come meanwhile."""

import threading
from typing import Generic, Protocol, TypeVar

from wbcache_core.errors import StoppedError


class Stoppable(Protocol):
    """See Cache, which says what each does."""

    @property
    def is_unfinished(self) -> bool: ...
    @property
    def is_settled(self) -> bool: ...
    def interrupt(self) -> None: ...
    def finish(self) -> None: ...
    def wait_until_settled(self) -> None: ...
    def stop(self) -> None: ...


T = TypeVar("T", bound=Stoppable)


class Replaceable(Generic[T]):
    """Locks, outermost first: `_replacing` is held by whoever replaces `now`; `_lock` guards `now` and `_interrupts`,
    and is held while `now` is interrupted."""

    def __init__(self, first: T) -> None:
        self._replacing = threading.Lock()
        self._lock = threading.Lock()
        self._interrupts = 0
        self.now: T = first
        """May be read without the lock: what is replaced refuses to begin anything, or starts over."""

    def _put(self, new: T) -> None:
        """From now on this one serves. `_replacing` held."""
        with self._lock:
            self.now = new
            for _ in range(self._interrupts):
                new.interrupt()

    def check_not_stopping(self) -> None:
        """Raises StoppedError."""
        if self._interrupts:
            raise StoppedError("the server is shutting down")

    def interrupt(self) -> None:
        """See Cache.interrupt()."""
        with self._lock:
            self._interrupts += 1
            self.now.interrupt()

    def _last(self) -> T:
        """What serves when nobody replaces it any more: a stop has begun."""
        with self._replacing:
            return self.now

    def finish(self) -> None:
        """See Cache.finish()."""
        if not self._interrupts:
            self.interrupt()
        self._last().finish()

    @property
    def is_unfinished(self) -> bool:
        """See Cache.is_unfinished and Bypass.is_unfinished."""
        return self.now.is_unfinished

    @property
    def is_settled(self) -> bool:
        """See Cache.is_settled."""
        return self.now.is_settled

    def wait_until_settled(self) -> None:
        """Return when is_settled. Call it only after interrupt(), if finish() has been called, or will be by another
        thread."""
        self._last().wait_until_settled()

    def stop(self) -> None:
        """finish() and close the devices. Idempotent."""
        self.finish()
        self.now.stop()

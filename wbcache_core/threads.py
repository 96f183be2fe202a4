# SPDX-License-Identifier: BSD-3-Clause
"""Threads that start together or not at all, one that waits for another, and one that survives its own errors."""

import contextlib
import logging
import threading
from collections.abc import Callable

from wbcache_core.errors import NoThreadError

_log = logging.getLogger("wbcache")


def start(thread: threading.Thread) -> None:
    """Raises NoThreadError."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        # Python raises RuntimeError for both, without an errno.
        raise NoThreadError(
            f"cannot start a thread ({thread.name}): {error or 'out of memory'}; the limit on processes (ulimit -u, "
            "TasksMax= of systemd, pids.max of a container) or on memory is reached: raise it, and connect again"
        ) from None


class Turn:
    """What one thread waits for, and another gives it, once. Cheaper than a condition, which has a lock to take too."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held until it is given."""
        self._lock.acquire()

    def give(self) -> None:
        """Wake the one who waits, or will wait. If it has been given already, nothing happens."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float = -1) -> bool:
        """Return when it has been given, and take it back; False after so many seconds."""
        return self._lock.acquire(timeout=timeout)


class InternalErrors:
    """Of a thread that goes on after them. Only that thread uses it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._told: set[tuple[type, int]] = set()
        """Kind and line of those that have been logged."""

    def note(self, error: Exception) -> None:
        """Log it with its traceback, once for each line that it comes from; to be called in the `except`."""
        traceback = error.__traceback__
        while traceback and traceback.tb_next:
            traceback = traceback.tb_next
        key = type(error), hash((traceback.tb_frame.f_code, traceback.tb_lineno)) if traceback else 0
        if key not in self._told:
            self._told.add(key)
            _log.exception("internal error in %s, please report it; it goes on", self._where)


class StartTogether:
    """Threads that wait for one decision before they do anything: all run, or all end.

    For one thread, which calls run() or give_up() once. `_may_run` is written before `_decision` is released.
    """

    def __init__(self) -> None:
        self._decision = threading.Lock()
        """Held until the decision is made. Nothing else is taken while it is held."""
        self._decision.acquire()
        self._may_run = False
        self._threads: list[threading.Thread] = []

    def add(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Start a thread that waits. Raises NoThreadError."""
        thread = threading.Thread(target=self._wait, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        start(thread)
        return thread

    def run(self) -> None:
        """Let all of them run. A caller that gets an exception here still has to call give_up()."""
        self._may_run = True
        self._decision.release()

    def give_up(self) -> None:
        """Return when all have ended without having done anything."""
        self._may_run = False
        self._decision.release()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def _wait(self, work: Callable[[], None]) -> None:
        with self._decision:
            may_run = self._may_run
        if may_run:
            work()

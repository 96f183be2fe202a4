# SPDX-License-Identifier: BSD-3-Clause
"""Notices that the server was told to stop while requests are still blocked in it.

nbdkit handles SIGTERM by waiting for the requests in progress, and only then
calls the plugin; a request that waits for log space would keep it waiting. So
the signals are blocked in every thread and taken by one thread of ours, which
wakes the requests and passes the stop on to nbdkit. The threads that the stop
needs exist from the start: when it comes there may be no more to be had.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping

from wbcache_core import threads

_log = logging.getLogger("wbcache")

_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))


_TICK_SECONDS = 0.1


class ShutdownWatcher:
    """`_finished` is written by finish() alone, before it wakes the threads."""

    def __init__(
        self, on_signal: Callable[[], None], on_tick: Callable[[], object],
        at_stop: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:  # fmt: skip
        """on_signal is called in the watcher's thread for each signal, on_tick ten times a second from the first
        signal on. Neither may block long. The calls in at_stop may: each is made once, after on_signal, in a thread
        of its own of that name."""
        self._on_signal = on_signal
        self._on_tick = on_tick
        self._finished = False
        self._begun = threading.Event()
        """A signal has come, or finish() has been called."""
        self._thread = threading.Thread(target=self._watch, name="wbcache-signals", daemon=True)
        self._helpers = [
            threading.Thread(target=self._help, args=(work,), name=name, daemon=True)
            for name, work in (at_stop or {}).items()
        ]

    def start(self) -> None:
        """To be called in the main thread before there are others: they inherit its signal mask.

        Raises NoThreadError.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for thread in (*self._helpers, self._thread):
            threads.start(thread)

    def finish(self) -> None:
        """End the threads. What at_stop does has ended, or ends soon."""
        self._finished = True
        self._begun.set()
        if self._thread.is_alive():
            # To the process, not to the thread, which may be gone by now. Nobody else takes a blocked signal.
            os.kill(os.getpid(), signal.SIGTERM)
            self._thread.join()
        for helper in self._helpers:
            helper.join()

    def _help(self, work: Callable[[], None]) -> None:
        self._begun.wait()
        if self._finished:
            return
        try:
            work()
        except Exception:
            _log.exception("internal error while stopping, please report it")

    def _watch(self) -> None:
        errors = threads.InternalErrors("the stop")
        signal.sigwait(_SIGNALS)
        while not self._finished:
            try:
                self._on_signal()
            except Exception:
                # A second signal must be noticed, and the ticks continue.
                _log.exception("internal error at a signal to stop, please report it")
            self._begun.set()
            while not (signal.sigtimedwait(_SIGNALS, _TICK_SECONDS) or self._finished):
                # A failure (no descriptors left) is retried at the next tick: a second signal must be noticed.
                try:
                    self._on_tick()
                except OSError:
                    pass
                except Exception as error:
                    errors.note(error)

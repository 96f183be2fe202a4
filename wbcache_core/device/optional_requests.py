# SPDX-License-Identifier: BSD-3-Clause
"""Requests that a device may refuse, because there is another way: which of them it refused of late.

Whatever the reason that a device gives, the other way is taken at once. If that works, the request was refused, which
is remembered for a while, so that it is not tried each time; but not for ever, for it may have been a fault that has
gone. If the other way fails too, it is the device that fails, and that error counts.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable

from wbcache_core.errors import DeviceError, DeviceLostError

_log = logging.getLogger("wbcache")

TRIM, ZERO, MAP, PREFETCH, BULK = "trim", "zero", "map", "prefetch", "bulk"
_INSTEAD = {
    TRIM: "it is zeroed without being deallocated",
    ZERO: "zeros are written, which takes longer",
    MAP: "all of it counts as data",
    PREFETCH: "nothing is read ahead",
    BULK: "each write is a call of its own",
}
"""The kinds of requests, and what is done instead."""

_ORDINARY = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.ECANCELED)
"""What those say that never do such a thing: nothing that an administrator has to hear of."""

_FIRST_REST, _LONGEST_REST = 60.0, 3600.0
"""Seconds for which a request that was refused is not tried again; twice as long after each further time."""


class OptionalRequests:
    """Of one device. `_lock` guards both fields; they are read without it, too: one request too many does no harm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rests: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def is_wanted(self, kind: str) -> bool:
        """False while requests of that kind are not worth trying."""
        until = self._until.get(kind)
        return until is None or time.monotonic() >= until

    def attempt(self, kind: str, request: Callable[[], None], other_way: Callable[[], None]) -> None:
        """Do request(), or other_way() where that is refused. Raises what other_way() raises, and DeviceLostError."""
        if not self.is_wanted(kind):
            other_way()
            return
        try:
            request()
        except DeviceLostError:
            raise
        except DeviceError as error:
            other_way()
            self.note_refusal(kind, error)
        else:
            self.note_success(kind)

    def note_refusal(self, kind: str, error: DeviceError) -> None:
        """The device refused a request, and the other way worked."""
        with self._lock:
            if not self.is_wanted(kind):
                # Another thread's request was refused at the same time.
                return
            known = self._rests.get(kind, 0.0)
            rest = self._rests[kind] = min(2 * known, _LONGEST_REST) if known else _FIRST_REST
            self._until[kind] = time.monotonic() + rest
        if not known:
            level = logging.INFO if error.errno_value in _ORDINARY else logging.WARNING
            _log.log(level, "%s; %s; it is tried again in a while", error, _INSTEAD[kind])

    def note_success(self, kind: str) -> None:
        """The device did what it was asked."""
        if kind in self._rests:
            self.forget(kind)

    def forget(self, *kinds: str) -> None:
        """Try again at once, all kinds if none is named: the device may be another one now."""
        with self._lock:
            for kind in kinds or tuple(self._rests):
                self._rests.pop(kind, None)
                self._until.pop(kind, None)

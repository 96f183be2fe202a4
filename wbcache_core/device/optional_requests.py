# SPDX-License-Identifier: BSD-3-Clause
"""Requests that a device may reject, because there is another way: which of them it rejected recently.

Whatever reason the device gives, the other way is taken at once. If that works, the request counts as rejected, which
is remembered for a while, so that it is not tried each time; but not for ever, because it may have been a passing
fault. If the other way fails too, the device is failing, and that error counts.
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
"""The errors of devices that never support such a request: nothing to bother an administrator with."""

_FIRST_REST, _LONGEST_REST = 60.0, 3600.0
"""Seconds for which a rejected request is not tried again; twice as long after each further rejection."""


class OptionalRequests:
    """For one device. `_lock` guards both fields; they are also read without it: one request too many does no harm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rests: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def is_wanted(self, kind: str) -> bool:
        """False while requests of that kind are not worth trying."""
        until = self._until.get(kind)
        return until is None or time.monotonic() >= until

    def attempt(self, kind: str, request: Callable[[], None], other_way: Callable[[], None]) -> None:
        """Do request(), or other_way() if that is rejected. Raises what other_way() raises, and DeviceLostError."""
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
        """The device rejected a request, and the other way worked."""
        with self._lock:
            if not self.is_wanted(kind):
                # Another thread's request was rejected at the same time.
                return
            known = self._rests.get(kind, 0.0)
            rest = self._rests[kind] = min(2 * known, _LONGEST_REST) if known else _FIRST_REST
            self._until[kind] = time.monotonic() + rest
        if not known:
            level = logging.INFO if error.errno_value in _ORDINARY else logging.WARNING
            _log.log(level, "%s; %s; it is tried again in a while", error, _INSTEAD[kind])

    def note_success(self, kind: str) -> None:
        """The device did what it was asked to."""
        if kind in self._rests:
            self.forget(kind)

    def forget(self, *kinds: str) -> None:
        """Try again at once, all kinds if none is named: it may be a different device now."""
        with self._lock:
            for kind in kinds or tuple(self._rests):
                self._rests.pop(kind, None)
                self._until.pop(kind, None)

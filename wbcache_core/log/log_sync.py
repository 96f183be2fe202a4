# SPDX-License-Identifier: BSD-3-Clause
"""Syncs of the log. After one has failed, none succeeds any more.

The kernel reports an error only once, to one sync, and may have dropped what
it could not write: the next sync would succeed. So syncs run one at a time,
and no sync can take the error that belongs to another thread's writes without
that thread being told.
"""

import errno
import threading

from wbcache_core.device.device import Device
from wbcache_core.errors import DeviceError, SyncFailedError


class LogSync:
    """`_lock` guards `_error` and is held across the sync. No other lock is taken while it is held."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._error: SyncFailedError | None = None

    def begin_anew(self) -> None:
        """Forget a failure, because everything written since the last good sync is going to be written again."""
        with self._lock:
            self._error = None

    def sync(self) -> None:
        """Make everything written to the log before durable. Raises SyncFailedError, always after the first failure."""
        with self._lock:
            if self._error is None:
                try:
                    self._device.sync()
                    return
                except Exception as error:
                    value = error.errno_value if isinstance(error, DeviceError) else errno.EIO
                    self._error = SyncFailedError(str(error), value)
            raise SyncFailedError(str(self._error), self._error.errno_value)

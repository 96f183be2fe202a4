# SPDX-License-Identifier: BSD-3-Clause
"""One connection to an NBD server, on which requests never block for longer than their owner wants."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any

import nbd

from wbcache_core.errors import ConfigError, DeviceError, DeviceLostError, StoppedError

ALLOCATION = "base:allocation"

_POLL_MS = 250
_CONNECT_SECONDS = 3.0
_GRACE_SECONDS = 5.0
"""How long a request may go unanswered once the cache is stopping."""


class NbdConnection:
    """A libnbd handle, used by one thread at a time. `unflushed`, writes since the last flush, is the device's."""

    def __init__(self, uri: str, is_stopping: Callable[[], bool]) -> None:
        """Raises DeviceLostError after _CONNECT_SECONDS, ConfigError for a URI that makes no sense."""
        self.unflushed = False
        self._uri = uri
        self._is_stopping = is_stopping
        self.handle = nbd.NBD()
        self.handle.add_meta_context(ALLOCATION)
        deadline = time.monotonic() + _CONNECT_SECONDS
        try:
            self.handle.aio_connect_uri(uri)
            while self.handle.aio_is_connecting():
                if time.monotonic() > deadline:
                    raise DeviceLostError(f"origin '{uri}' does not answer", errno.EIO)
                self.handle.poll(_POLL_MS)
        except nbd.Error as error:
            if error.errnum == errno.EINVAL:
                raise ConfigError(f"origin '{uri}' is not an NBD URI that can be used: {error.string}") from None
            raise DeviceLostError(f"cannot connect to origin '{uri}': {error.string}", errno.EIO) from None
        if not self.handle.aio_is_ready():
            raise DeviceLostError(f"origin '{uri}' ended the connection at once", errno.EIO)

    def perform(self, verb: str, method: str, *arguments: Any) -> None:
        """Start one of libnbd's aio_ calls and wait for it; verb is for the message.

        Raises DeviceError with the server's errno, DeviceLostError, and StoppedError when there is no answer
        while the cache is stopping; after the last two the connection cannot be used any more.
        """
        handle = self.handle
        stopping_since = 0.0
        try:
            cookie = getattr(handle, method)(*arguments)
            while not handle.aio_command_completed(cookie):
                handle.poll(_POLL_MS)
                if self._is_stopping():
                    stopping_since = stopping_since or time.monotonic()
                    if time.monotonic() - stopping_since > _GRACE_SECONDS:
                        raise StoppedError(f"origin '{self._uri}' does not answer, and the server is shutting down")
        except nbd.Error as error:
            if not handle.aio_is_ready():
                raise DeviceLostError(f"the connection to origin '{self._uri}' was lost", errno.EIO) from None
            number = error.errnum or errno.EIO
            raise DeviceError(f"cannot {verb} origin '{self._uri}': {os.strerror(number)}", number) from None

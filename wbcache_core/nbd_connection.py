# SPDX-License-Identifier: BSD-3-Clause
"""One connection to an NBD server, on which requests never block for longer than their owner wants."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import nbd

from wbcache_core.block_device import Write
from wbcache_core.errors import ConfigError, DeviceError, DeviceLostError, StoppedError

ALLOCATION = "base:allocation"

PIPELINE_DEPTH = 16
"""Writes under way on one connection: servers work on about so many at once."""
_POLL_MS = 250
_CONNECT_SECONDS = 3.0
_GRACE_SECONDS = 5.0
"""How long a request may go unanswered once the cache is stopping."""


class Part(NamedTuple):
    """One write as the server takes it, and what it is a part of."""

    data: memoryview
    offset: int
    write: Write


class NbdConnection:
    """A libnbd handle, used by one thread at a time. `unflushed`, writes since the last flush, is the device's.

    `unanswered` is the number of writes, zeros and trims that the server may have received and has not answered.
    """

    def __init__(self, uri: str, is_stopping: Callable[[], bool]) -> None:
        """Raises DeviceLostError after _CONNECT_SECONDS, ConfigError for a URI that makes no sense."""
        self.unflushed = False
        self.unanswered = 0
        self._is_ending = False
        self._uri = uri
        self._is_stopping = is_stopping
        self.handle = nbd.NBD()
        self.handle.add_meta_context(ALLOCATION)
        deadline = time.monotonic() + _CONNECT_SECONDS
        is_started = False
        try:
            self.handle.aio_connect_uri(uri)
            is_started = True
            while self.handle.aio_is_connecting():
                if time.monotonic() > deadline:
                    raise DeviceLostError(f"origin '{uri}' does not answer", errno.EIO)
                self.handle.poll(_POLL_MS)
        except nbd.Error as error:
            # Later it is about the connection: libnbd's poll() says so too where that changes state meanwhile.
            if error.errnum == errno.EINVAL and not is_started:
                raise ConfigError(f"origin '{uri}' is not an NBD URI that can be used: {error.string}") from None
            raise DeviceLostError(f"cannot connect to origin '{uri}': {error.string}", errno.EIO) from None
        if not self.handle.aio_is_ready():
            raise DeviceLostError(f"origin '{uri}' ended the connection at once", errno.EIO)

    @property
    def is_usable(self) -> bool:
        """Connected, with no request under way."""
        return not self._is_ending and self.handle.aio_is_ready() and not self.handle.aio_in_flight()

    def hang_up(self) -> None:
        """Close the connection: the handle goes with its last user. A server that is to end waits for that."""
        self.handle = nbd.NBD()

    def change(self, verb: str, method: str, *arguments: Any) -> None:
        """perform() what changes the export."""
        self.unanswered += 1
        try:
            self.perform(verb, method, *arguments)
        except (DeviceLostError, StoppedError):
            raise
        except DeviceError:
            self.unanswered -= 1
            raise
        self.unanswered -= 1

    def perform(self, verb: str, method: str, *arguments: Any) -> None:
        """Start one of libnbd's aio_ calls and wait for it; verb is for the message.

        Raises DeviceError with the server's errno, DeviceLostError, and StoppedError when there is no answer
        while the cache is stopping; after the last two the connection cannot be used any more.
        """
        handle = self.handle
        waiting_since = 0.0
        try:
            cookie = getattr(handle, method)(*arguments)
            while not handle.aio_command_completed(cookie):
                waiting_since = self._poll(waiting_since)
        except nbd.Error as error:
            raise self._device_error(verb, error) from None

    def write_many(
        self, next_part: Callable[[], Part | None], refuse: Callable[[Part, DeviceError], None], depth: int
    ) -> None:
        """Write what next_part() gives, up to depth at once, until it gives None; what fails goes to refuse().

        Raises DeviceLostError and StoppedError as perform() does, and what the two callbacks raise as soon as
        nothing is under way any more.
        """
        handle = self.handle
        under_way: dict[int, Part] = {}
        failure: Exception | None = None
        part: Part | None
        waiting_since = 0.0
        try:
            while True:
                try:
                    while not failure and len(under_way) < depth and (part := next_part()):
                        # Also when the call fails: it may have sent some or all of it.
                        self.unanswered += 1
                        under_way[handle.aio_pwrite(part.data, part.offset)] = part
                except (DeviceError, StoppedError) as error:
                    failure = error
                if not under_way:
                    break
                waiting_since = self._poll(waiting_since)
                while under_way and (cookie := handle.aio_peek_command_completed()):
                    waiting_since = 0.0
                    try:
                        self._retire(cookie, under_way.pop(cookie), refuse)
                    except DeviceLostError:
                        raise
                    except DeviceError as error:
                        failure = failure or error
        except nbd.Error as error:
            raise self._device_error("write to", error) from None
        if failure:
            raise failure

    def _retire(self, cookie: int, part: Part, refuse: Callable[[Part, DeviceError], None]) -> None:
        """Raises DeviceLostError, and what refuse() raises."""
        try:
            self.handle.aio_command_completed(cookie)
        except nbd.Error as error:
            failure = self._device_error("write to", error)
            if isinstance(failure, DeviceLostError):
                raise failure from None
            self.unanswered -= 1
            refuse(part, failure)
        else:
            self.unanswered -= 1

    def _poll(self, waiting_since: float) -> float:
        """Wait a while for the server. Returns since when the cache is stopping while nothing is answered, or 0.0.

        Raises nbd.Error, and StoppedError when that is too long.
        """
        self.handle.poll(_POLL_MS)
        if not self._is_stopping():
            return 0.0
        now = time.monotonic()
        if waiting_since and now - waiting_since > _GRACE_SECONDS:
            raise StoppedError(f"origin '{self._uri}' does not answer, and the server is shutting down")
        return waiting_since or now

    def _device_error(self, verb: str, error: nbd.Error) -> DeviceError:
        """What a failure of libnbd means."""
        if not self.handle.aio_is_ready():
            return DeviceLostError(f"the connection to origin '{self._uri}' was lost", errno.EIO)
        number = error.errnum or errno.EIO
        if number == errno.ESHUTDOWN:
            # It waits for us to hang up; a successor may listen soon.
            self._is_ending = True
            return DeviceLostError(f"origin '{self._uri}' is shutting down", errno.EIO)
        return DeviceError(f"cannot {verb} origin '{self._uri}': {os.strerror(number)}", number)

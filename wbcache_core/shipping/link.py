# SPDX-License-Identifier: BSD-3-Clause
"""A connection to the export `log` of a standby: requests in order, many at once, and their answers in that order."""

import contextlib
import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable

import nbd

from wbcache_core.device.nbd_connecting import connect
from wbcache_core.errors import DeviceError, DeviceLostError, NoConnectionError, StoppedError
from wbcache_core.format.standby_state import identity_in
from wbcache_core.shipping.bell import Bell
from wbcache_core.units import PAGE_BYTES

_LOOK_SECONDS = 0.25
"""A connection that is being made looks this often whether the server is stopping."""
_NOT_OPEN = "is it a standby, and not being stopped? Its log says more"
_NOT_OPEN_PLAINLY = (
    "it may refuse connections without TLS: use peer=nbds://..., or add plain-tcp=allow to the standby if only the two "
    "hosts are in that network. Or it is no standby, or is being stopped; its log says more"
)
"""The same if there is no TLS."""
_FAREWELL_SECONDS = 0.5
"""How long the last answers may take."""
_READ, _WRITE = 1, 2
"""Bits of libnbd's direction: what it waits for."""


class Link:
    """For one thread. Methods raise DeviceLostError when the connection has ended or was silent for too long, and
    DeviceError, with the standby's errno, when it refuses a request; after either the link is of no more use."""

    def __init__(self, uri: str, bell: Bell, seconds: float, is_stopping: Callable[[], bool]) -> None:
        """Raises NoConnectionError after so many seconds, ConfigError for a URI that cannot be used, StoppedError."""
        self._uri = uri
        self._bell = bell
        self._seconds = seconds
        self._under_way: deque[int] = deque()
        """Cookies of requests without an answer, oldest first."""
        self.last_sign = time.monotonic()
        """When an answer came, or the first of those under way was sent."""
        self._handle = nbd.NBD()
        self._handle.set_full_info(True)
        if_not_open = _NOT_OPEN_PLAINLY if uri.startswith("nbd://") else _NOT_OPEN
        connect(self._handle, uri, "peer", lambda: self._wait_until_connected(is_stopping), if_not_open)

    def _wait_until_connected(self, is_stopping: Callable[[], bool]) -> None:
        started = time.monotonic()
        while self._handle.aio_is_connecting():
            if is_stopping():
                raise StoppedError("the server is shutting down")
            if time.monotonic() - started > self._seconds:
                raise NoConnectionError(
                    f"peer '{self._uri}' does not answer: no connection in {self._seconds:.3g} s (peer-timeout)",
                    errno.EIO,
                )
            self._handle.poll(round(_LOOK_SECONDS * 1000))

    def close(self) -> None:
        """Hang up, if possible when nothing is under way: nbdkit before 1.36 can abort itself if it has answers then.
        Idempotent."""
        until = time.monotonic() + _FAREWELL_SECONDS
        with contextlib.suppress(nbd.Error):
            while self._handle.aio_in_flight() and (left := until - time.monotonic()) > 0:
                self._handle.poll(round(left * 1000))
        self._handle = nbd.NBD()
        self._under_way.clear()

    @property
    def identity(self) -> str:
        """Of the standby, whatever its name is here; empty if it does not say."""
        try:
            return identity_in(self._handle.get_export_description())
        except nbd.Error:
            # It has no description.
            return ""

    @property
    def under_way(self) -> int:
        """Requests without an answer."""
        return len(self._under_way)

    @property
    def silent_for(self) -> float:
        """Seconds for which an answer has been due; 0.0 if none is."""
        return time.monotonic() - self.last_sign if self._under_way else 0.0

    def read_state(self) -> memoryview:
        """The first page of the export. Waits for it."""
        page = nbd.Buffer(PAGE_BYTES)
        self._send("aio_pread", page, 0)
        while not self.answered():
            self.wait(self._seconds)
        return memoryview(page.to_bytearray())

    def read_report(self) -> nbd.Buffer:
        """Ask for the second page of the export, which is returned: it is filled when this has been answered."""
        page = nbd.Buffer(PAGE_BYTES)
        self._send("aio_pread", page, PAGE_BYTES)
        return page

    def write(self, data: bytes | memoryview, offset: int, durably: bool) -> None:
        """Send a write; the data stays as it is until the answer has come."""
        self._send("aio_pwrite", data, offset, flags=nbd.CMD_FLAG_FUA if durably else 0)

    def flush(self) -> None:
        """Send a flush."""
        self._send("aio_flush")

    def _send(self, method: str, *arguments: object, **flags: int) -> None:
        if not self._under_way:
            self.last_sign = time.monotonic()
        try:
            self._under_way.append(getattr(self._handle, method)(*arguments, **flags))
        except nbd.Error as error:
            raise self._failure(error) from None

    def wait(self, seconds: float) -> None:
        """Return when something has come, or the bell rings, or after so many seconds."""
        handle = self._handle
        try:
            direction = handle.aio_get_direction()
            events = (select.POLLIN if direction & _READ else 0) | (select.POLLOUT if direction & _WRITE else 0)
            happened = self._bell.wait(seconds, handle.aio_get_fd(), events)
            if happened & ~select.POLLOUT:
                # Also when the other end has hung up.
                handle.aio_notify_read()
            elif happened:
                handle.aio_notify_write()
            while handle.aio_get_direction() & _WRITE and handle.poll(0) > 0:
                # A call sends what the socket has room for: a small part of a segment.
                pass
        except nbd.Error as error:
            raise self._failure(error) from None
        if not handle.aio_is_ready() and not handle.aio_is_processing():
            raise self._lost()
        if self.silent_for > self._seconds:
            raise DeviceLostError(
                f"peer '{self._uri}' has not answered for {self.silent_for:.3g} s (peer-timeout): the connection is "
                "given up", errno.EIO,
            )  # fmt: skip

    def answered(self) -> int:
        """How many of the oldest requests under way have been answered since the last call."""
        count = 0
        try:
            while self._under_way and self._handle.aio_command_completed(self._under_way[0]):
                self._under_way.popleft()
                count += 1
        except nbd.Error as error:
            raise self._failure(error) from None
        if count:
            self.last_sign = time.monotonic()
        return count

    def _failure(self, error: nbd.Error) -> DeviceError:
        """What a failure of libnbd means."""
        if error.errnum and (self._handle.aio_is_ready() or self._handle.aio_is_processing()):
            if error.errnum == errno.ESHUTDOWN:
                return DeviceLostError(f"peer '{self._uri}' is shutting down", errno.EIO)
            if error.errnum == errno.EPERM:
                return DeviceError(
                    f"peer '{self._uri}' takes nothing more from this server: another connection has taken its place, "
                    "or its log is another server's now; the log of the standby says which; is it the peer of another "
                    "server, too?", errno.EPERM,
                )  # fmt: skip
            return DeviceError(f"peer '{self._uri}' refuses what it gets: {os.strerror(error.errnum)}", error.errnum)
        return self._lost()

    def _lost(self) -> DeviceLostError:
        return DeviceLostError(f"the connection to peer '{self._uri}' was lost", errno.EIO)

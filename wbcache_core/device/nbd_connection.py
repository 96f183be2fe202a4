# SPDX-License-Identifier: BSD-3-Clause
"""One connection to an NBD server, from its beginning to its end. docs/nbd-origins.md has its states as a table."""

import contextlib
import enum
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import nbd

from wbcache_core.device.device import Write
from wbcache_core.device.nbd_connecting import connect
from wbcache_core.device.nbd_times import Patience
from wbcache_core.errors import DeviceError, DeviceLostError, NoConnectionError, StoppedError

ALLOCATION = "base:allocation"
FLUSH = "flush"

PIPELINE_DEPTH = 16
"""Most writes in progress on one connection: servers work on about this many at once."""
_POLL_MS = 250
_GRACE_SECONDS = 5.0
"""How long a request may go unanswered, or a new connection may take, once the cache is stopping."""
_OTHERS_FACTOR = 10
"""How many times its limit a request may wait if its own connection is silent and others are answered."""
_KEEPALIVE_PROBES = 4


class State(enum.Enum):
    """Where a connection stands. Requests are made in READY only; nothing leads back to it from those below it."""

    CONNECTING = "connecting"
    READY = "ready"
    ENDING = "the server is shutting down"
    SILENT = "given up"
    LOST = "lost"
    CLOSED = "closed"


class Part(NamedTuple):
    """One write as the server accepts it, and what it is a part of."""

    data: memoryview
    offset: int
    write: Write


class Rules(NamedTuple):
    """What a connection asks its device: whether the cache is stopping, whether to wait without limit for answers to
    changes, how long to wait for others, and when another connection last had a sign of life."""

    is_stopping: Callable[[], bool]
    is_draining: Callable[[], bool]
    patience: Patience
    others_answered_at: Callable[["NbdConnection"], float]


class NbdConnection:
    """A libnbd handle, used by one thread at a time. `unflushed`, writes since the last flush, is the device's.

    `unanswered` is the number of writes, zeros and trims that the server may have received and has not answered.
    `connected_at` and `answered_at`, when it had its last answer, are in seconds of time.monotonic().
    """

    def __init__(self, uri: str, rules: Rules, connect_seconds: float, keepalive_seconds: float) -> None:
        """Raises NoConnectionError after connect_seconds, ConfigError for an invalid URI."""
        self.unflushed = False
        self.unanswered = 0
        self.state = State.CONNECTING
        self._uri = uri
        self._rules = rules
        self.handle = nbd.NBD()
        self.handle.add_meta_context(ALLOCATION)
        connect(self.handle, uri, "origin", lambda: self._wait_until_connected(connect_seconds))
        self.state = State.READY
        self.connected_at = self.answered_at = time.monotonic()
        self._keep_alive(keepalive_seconds)

    def _wait_until_connected(self, seconds: float) -> None:
        """Raises NoConnectionError, nbd.Error."""
        started = time.monotonic()
        while self.handle.aio_is_connecting():
            waited = time.monotonic() - started
            if waited > seconds or (self._rules.is_stopping() and waited > _GRACE_SECONDS):
                raise NoConnectionError(
                    f"origin '{self._uri}' does not answer: no connection in {waited:.3g} s (origin-connect-timeout)",
                    errno.EIO,
                )
            self.handle.poll(_POLL_MS)

    def _keep_alive(self, seconds: float) -> None:
        """A hint: let the kernel notice a machine that has disappeared, even while no request is waiting."""
        with contextlib.suppress(OSError, nbd.Error), socket.socket(fileno=os.dup(self.handle.aio_get_fd())) as end:
            if end.family in (socket.AF_INET, socket.AF_INET6):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                pause = min(max(int(seconds / _KEEPALIVE_PROBES), 1), 3600)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, pause)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES - 1)

    @property
    def is_usable(self) -> bool:
        """Connected, with no request in progress."""
        return self.state is State.READY and self.handle.aio_is_ready() and not self.handle.aio_in_flight()

    def has_ended(self) -> bool:
        """Whether the other end has hung up, for a connection on which nothing is in progress. Does not wait."""
        with contextlib.suppress(nbd.Error):
            self.handle.poll(0)
        return not self.is_usable

    def hang_up(self) -> None:
        """Close the connection: the handle goes with its last user. A server that wants to end waits for that."""
        self.state = State.CLOSED
        self.handle = nbd.NBD()

    def change(self, verb: str, method: str, *arguments: Any) -> None:
        """perform() a request that changes the export."""
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

        Raises DeviceError with the server's errno, DeviceLostError, and StoppedError if there is no answer while the
        cache is stopping; after the last two the connection is unusable.
        """
        handle = self.handle
        wait = _Wait(self, is_flush=verb == FLUSH, is_change=verb == FLUSH or self.unanswered > 0)
        try:
            cookie = getattr(handle, method)(*arguments)
            while not handle.aio_command_completed(cookie):
                wait.poll()
        except nbd.Error as error:
            raise self._device_error(verb, error) from None
        self.answered_at = time.monotonic()

    def write_many(
        self, next_part: Callable[[], Part | None], refuse: Callable[[Part, DeviceError], None], depth: int
    ) -> None:
        """Write what next_part() returns, up to depth at once, until it returns None; what fails goes to refuse().

        Raises DeviceLostError and StoppedError as perform() does, and what the two callbacks raise as soon as nothing
        is in progress any more.
        """
        handle = self.handle
        under_way: dict[int, Part] = {}
        failure: Exception | None = None
        part: Part | None
        wait = _Wait(self, is_flush=False, is_change=True)
        try:
            while True:
                try:
                    while not failure and len(under_way) < depth and (part := next_part()):
                        # Even if the call fails: it may have sent some or all of it.
                        self.unanswered += 1
                        under_way[handle.aio_pwrite(part.data, part.offset)] = part
                except (DeviceError, StoppedError) as error:
                    failure = error
                if not under_way:
                    break
                wait.poll()
                while under_way and (cookie := handle.aio_peek_command_completed()):
                    wait.begin_anew()
                    self.answered_at = time.monotonic()
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

    def _device_error(self, verb: str, error: nbd.Error) -> DeviceError:
        """What a failure of libnbd means."""
        if not self.handle.aio_is_ready():
            self.state = State.LOST
            return DeviceLostError(f"the connection to origin '{self._uri}' was lost", errno.EIO)
        number = error.errnum or errno.EIO
        if number == errno.ESHUTDOWN:
            # It waits for us to hang up; a successor may be listening soon.
            self.state = State.ENDING
            return DeviceLostError(f"origin '{self._uri}' is shutting down", errno.EIO)
        self.answered_at = time.monotonic()
        return DeviceError(f"cannot {verb} origin '{self._uri}': {os.strerror(number)}", number)

    def give_up(self, waited: float) -> DeviceLostError:
        """The server was silent for too long."""
        self.state = State.SILENT
        return DeviceLostError(
            f"origin '{self._uri}' has not answered for {waited:.3g} s (origin-timeout): the connection is given up",
            errno.EIO,
        )

    def _silent_until(self, since: float, is_flush: bool) -> float:
        """How long it may stay silent if nothing has arrived on it since then."""
        limit = self._rules.patience.limit(is_flush)
        last_sign = max(since, self._rules.others_answered_at(self))
        return min(last_sign + limit, since + _OTHERS_FACTOR * limit)


class _Wait:
    """The waiting for answers on one connection, and who may end it."""

    def __init__(self, connection: NbdConnection, is_flush: bool, is_change: bool) -> None:
        self._connection = connection
        self._rules = connection._rules
        self._is_flush = is_flush
        self._is_change = is_change
        self.begin_anew()

    def begin_anew(self) -> None:
        """There was an answer."""
        self._since = time.monotonic()
        self._stopping_since = 0.0

    def poll(self) -> None:
        """Wait a while for the server. Raises nbd.Error, DeviceLostError if it was silent for too long, and
        StoppedError if there has been no answer for some time since the cache began to stop."""
        connection, rules = self._connection, self._rules
        has_come = connection.handle.poll(_POLL_MS) != 0
        now = time.monotonic()
        if rules.is_stopping():
            self._stopping_since = self._stopping_since or now
            if now - self._stopping_since > _GRACE_SECONDS:
                raise StoppedError(f"origin '{connection._uri}' does not answer, and the server is shutting down")
        if has_come:
            # Part of a long answer has arrived, or there is room for more of a long request.
            self._since = now
        elif not (self._is_change and rules.is_draining()) and now > connection._silent_until(
            self._since, self._is_flush
        ):
            rules.patience.note_given_up(self._is_flush, self._since)
            raise connection.give_up(now - self._since)

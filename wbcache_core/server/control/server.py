# SPDX-License-Identifier: BSD-3-Clause
"""Lines in, lines out, on a Unix socket: one thread for all connections, and one for requests that take longer.

Whatever comes in, the cache keeps running: a connection has at most one request
in progress and one answer to be sent, nothing is read from it meanwhile, the
length of a line and the number of connections are limited, and after each turn
the thread rests for a multiple of the time that the turn took.
"""

import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from wbcache_core.server.control.socket import ControlSocket
from wbcache_core.threads import InternalErrors

MOST_CONNECTIONS = 32
LONGEST_LINE = 4096
_RECEIVE_BYTES = 4096
_TICK_SECONDS = 2.0
_REST = 4
"""At most a fifth of the time is spent here."""
_LONGEST_REST = 0.5
_REST_AFTER_FAILURE = 0.1

Answer: TypeAlias = bytes | Callable[[], bytes]
"""A line, or a function that returns one and may block."""


class _Connection:
    """Only the server's thread uses it; `is_busy` while the other thread is working for it."""

    __slots__ = ("endpoint", "events", "has_ended", "is_busy", "received", "unsent", "used_at")

    def __init__(self, endpoint: socket.socket) -> None:
        self.endpoint = endpoint
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.is_busy = False
        self.has_ended = False
        """Nothing more is read: the client has closed its side, or sent too long a line."""
        self.events = 0
        self.used_at = time.monotonic()

    @property
    def is_next(self) -> bool:
        """Whether there is a line to be answered, and the previous answer has been sent."""
        return not (self.is_busy or self.unsent) and b"\n" in self.received


class ControlServer:
    """`answer` gets a line without its newline; `too_long` is the answer to a line that is too long. `answer` never
    raises.

    on_tick is called every other second or more often, in the same thread.
    """

    def __init__(
        self, listening: ControlSocket, answer: Callable[[bytes], Answer], too_long: bytes, on_tick: Callable[[], None]
    ) -> None:
        self._listening = listening
        self._answer = answer
        self._too_long = too_long
        self._on_tick = on_tick
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._stopping = threading.Event()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._jobs: queue.SimpleQueue[tuple[_Connection, Callable[[], bytes]] | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Connection, bytes]] = deque()
        """Answers; nothing for a connection that is to end without one."""
        self._thread = threading.Thread(target=self._run, name="wbcache-control", daemon=True)
        self._worker = threading.Thread(target=self._work, name="wbcache-control-work", daemon=True)

    def start(self) -> None:
        """After the fork, and with signals blocked: threads inherit that."""
        self._thread.start()
        self._worker.start()

    def stop(self) -> None:
        """Close all connections, remove the socket, end the threads; requests in progress are finished. Idempotent."""
        if self._wake_fd < 0:
            return
        self._stopping.set()
        if self._thread.ident:
            os.eventfd_write(self._wake_fd, 1)
            self._jobs.put(None)
            self._thread.join()
            self._worker.join()
        self._listening.close()
        self._selector.close()
        os.close(self._wake_fd)
        self._wake_fd = -1

    def _run(self) -> None:
        self._selector.register(self._listening.listener, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        errors = InternalErrors("the thread of the control socket")
        while not self._stopping.is_set():
            is_next = any(connection.is_next for connection in self._connections)
            events = self._selector.select(0 if is_next else _TICK_SECONDS)
            started = time.monotonic()
            rest = self._turn_or_drop_all(events, errors)
            try:
                self._on_tick()
            except Exception as error:
                errors.note(error)
            rest += min(_REST * (time.monotonic() - started), _LONGEST_REST)
            self._stopping.wait(rest)
        for connection in list(self._connections):
            self._drop(connection)

    def _turn_or_drop_all(self, events: list[tuple[selectors.SelectorKey, int]], errors: InternalErrors) -> float:
        """After an internal error it is not known how far a connection got: clients see theirs end."""
        try:
            return self._turn(events)
        except Exception as error:
            errors.note(error)
            for connection in list(self._connections):
                self._drop(connection)
            return _REST_AFTER_FAILURE

    def _turn(self, events: list[tuple[selectors.SelectorKey, int]]) -> float:
        """One round: each connection gets at most one request answered. Returns seconds to rest for a failure."""
        rest = 0.0
        for key, mask in events:
            if key.fd == self._wake_fd:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
            elif key.data is None:
                rest = self._accept()
            elif mask & selectors.EVENT_WRITE:
                self._send(key.data)
            else:
                self._receive(key.data)
        while self._done:
            connection, line = self._done.popleft()
            connection.is_busy = False
            if line:
                self._reply(connection, line)
            else:
                self._drop(connection)
        for connection in [one for one in self._connections if one.is_next]:
            self._answer_next(connection)
        return rest

    def _accept(self) -> float:
        try:
            endpoint, _ = self._listening.listener.accept()
        except OSError:
            # Most likely no descriptors are left: the client waits, and accepting is retried.
            return _REST_AFTER_FAILURE
        endpoint.setblocking(False)
        if len(self._connections) >= MOST_CONNECTIONS:
            idle = min((one for one in self._connections if not one.is_busy), key=lambda one: one.used_at, default=None)
            if idle is None:
                endpoint.close()
                return 0.0
            self._drop(idle)
        connection = _Connection(endpoint)
        self._connections.add(connection)
        self._watch(connection)
        return 0.0

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.endpoint.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        connection.used_at = time.monotonic()
        if data:
            connection.received += data
        else:
            connection.has_ended = True
            # The last line may lack its newline.
            connection.received += b"\n" if connection.received else b""
        if b"\n" not in connection.received and len(connection.received) > LONGEST_LINE:
            self._refuse(connection)
        else:
            self._watch(connection)

    def _refuse(self, connection: _Connection) -> None:
        connection.has_ended = True
        connection.received.clear()
        self._reply(connection, self._too_long)

    def _answer_next(self, connection: _Connection) -> None:
        line, _, rest = bytes(connection.received).partition(b"\n")
        connection.received[:] = rest
        if len(line) > LONGEST_LINE:
            self._refuse(connection)
        elif not line.strip():
            self._watch(connection)
        else:
            answer = self._answer(line)
            if isinstance(answer, bytes):
                self._reply(connection, answer)
            else:
                connection.is_busy = True
                self._watch(connection)
                self._jobs.put((connection, answer))

    def _reply(self, connection: _Connection, line: bytes) -> None:
        connection.unsent = memoryview(line)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            count = connection.endpoint.send(connection.unsent, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            count = 0
        except OSError:
            self._drop(connection)
            return
        connection.unsent = connection.unsent[count:]
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        """Wait for what the connection can do next; close it if there is nothing."""
        events = 0
        if connection.unsent:
            events = selectors.EVENT_WRITE
        elif not (connection.is_busy or connection.is_next):
            if connection.has_ended:
                self._drop(connection)
                return
            events = selectors.EVENT_READ
        if events == connection.events:
            return
        if not connection.events:
            self._selector.register(connection.endpoint, events, connection)
        elif events:
            self._selector.modify(connection.endpoint, events, connection)
        else:
            self._selector.unregister(connection.endpoint)
        connection.events = events

    def _drop(self, connection: _Connection) -> None:
        if connection.events:
            self._selector.unregister(connection.endpoint)
            connection.events = 0
        self._connections.discard(connection)
        connection.endpoint.close()

    def _work(self) -> None:
        errors = InternalErrors("a request through the control socket")
        while job := self._jobs.get():
            connection, answer = job
            try:
                line = answer()
            except Exception as error:
                errors.note(error)
                line = b""
            self._done.append((connection, line))
            os.eventfd_write(self._wake_fd, 1)

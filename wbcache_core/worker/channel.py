# SPDX-License-Identifier: BSD-3-Clause
"""Messages between server and worker: pickled objects over a pair of sockets, each after its length.

Both ends run the same code under the same Python, and nobody else has the sockets.
"""

import pickle
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from wbcache_core.errors import WbcacheError

_LENGTH = struct.Struct("=Q")


class ChannelEndedError(Exception):
    """The other end is gone."""


class Channel:
    """One end. For one thread."""

    def __init__(self, end: socket.socket, wait: Callable[[int], None] | None = None) -> None:
        """Before a part of a message is sent or received, wait(event) returns when the socket is ready for it, or
        raises; event is select.POLLIN or POLLOUT. Without it the calls block for as long as it takes."""
        self._end = end
        self._wait = wait
        end.setblocking(wait is None)

    def send(self, message: object) -> None:
        """Raises ChannelEndedError, and what wait() raises."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        left = memoryview(_LENGTH.pack(len(data)) + data)
        while left:
            self._wait_for(select.POLLOUT)
            try:
                left = left[self._end.send(left, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ChannelEndedError from None

    def receive(self) -> Any:
        """Raises ChannelEndedError, and what wait() raises."""
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        return pickle.loads(self._take(length))

    def _take(self, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        done = 0
        while done < length:
            self._wait_for(select.POLLIN)
            try:
                count = self._end.recv_into(data[done:])
            except BlockingIOError:
                continue
            except OSError:
                raise ChannelEndedError from None
            if not count:
                raise ChannelEndedError
            done += count
        return data

    def _wait_for(self, event: int) -> None:
        if self._wait:
            self._wait(event)

    def close(self) -> None:
        """Hang up."""
        self._end.close()


class PackedError:
    """One of our exceptions in a message: pickle would call its class with other arguments than it takes."""

    def __init__(self, error: WbcacheError) -> None:
        self._type, self._text, self._fields = type(error), str(error), vars(error).copy()

    def unpack(self) -> WbcacheError:
        """The same exception, without its traceback."""
        error = self._type.__new__(self._type, self._text)
        vars(error).update(self._fields)
        return error

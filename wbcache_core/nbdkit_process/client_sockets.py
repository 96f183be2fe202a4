# SPDX-License-Identifier: BSD-3-Clause
"""Ends the connections of this process's clients, so that threads waiting for a client's next request wake up.

nbdkit ends only when every client has disconnected, and a virtual machine never
does. First only the reading side is shut down: answers in progress are still
sent, and nbdkit closes the connection itself when there are no more. Then the
other side too, so that a request that cannot be carried out gets no answer: a
client that connects again sends it again, while an error would reach its user.
"""

import contextlib
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterable
from typing import TypeVar

_MOST_DESCRIPTORS = 1 << 16

_Found = TypeVar("_Found")


def allow_more_descriptors() -> None:
    """Each client takes one: raise the limit as far as this process may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class ClientSockets:
    """Also works when clients have used up all descriptors: it has kept two. For one thread at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._slot = os.dup(self._null)
        """A duplicate of a socket while it is examined: its number may become something else meanwhile."""

    def hang_up(self, spared: socket.socket | None = None, answers: bool = True) -> int:
        """Shut down the reading side of all connections that were accepted by listening sockets of this process, or
        without `answers` both sides.

        Connections that the process made itself, say to an NBD origin, are left alone, and so are those accepted by
        `spared`. Returns the number of connections shut down.
        """
        numbers = list(_descriptors())
        listeners = set(filter(None, self._of_each(numbers, _listener_name)))
        if spared:
            listeners.discard(_name(spared))

        def end(endpoint: socket.socket) -> bool:
            endpoint.getpeername()
            if _is_listening(endpoint) or _name(endpoint) not in listeners:
                return False
            endpoint.shutdown(socket.SHUT_RD if answers else socket.SHUT_RDWR)
            return True

        return sum(self._of_each(numbers, end))

    def _of_each(self, numbers: list[int], look: Callable[[socket.socket], _Found]) -> list[_Found]:
        """What look() finds at each socket; nothing if it raises OSError."""
        found: list[_Found] = []
        for number in numbers:
            # Sockets come and go in other threads meanwhile.
            with contextlib.suppress(OSError):
                if number == self._slot or not stat.S_ISSOCK(os.stat(number).st_mode):
                    continue
                os.dup2(number, self._slot, inheritable=False)
                try:
                    endpoint = socket.socket(fileno=self._slot)
                    try:
                        found.append(look(endpoint))
                    finally:
                        endpoint.detach()
                finally:
                    # The other end must not see a connection that lives on here.
                    os.dup2(self._null, self._slot, inheritable=False)
        return found


def _descriptors() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        # This takes a descriptor too. If none is left, all numbers are in use.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return range(min(most, _MOST_DESCRIPTORS) if most >= 0 else _MOST_DESCRIPTORS)


def _is_listening(endpoint: socket.socket) -> bool:
    is_stream = endpoint.type == socket.SOCK_STREAM
    return is_stream and endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0


def _listener_name(endpoint: socket.socket) -> tuple[int, object] | None:
    return _name(endpoint) if _is_listening(endpoint) else None


def _name(endpoint: socket.socket) -> tuple[int, object]:
    """What an accepted socket has in common with its listener: the path of a Unix socket, the port of another."""
    address = endpoint.getsockname()
    return endpoint.family, address[1] if isinstance(address, tuple) else address

# SPDX-License-Identifier: BSD-3-Clause
"""Ends the connections of this process's clients, so that threads that wait for a client's next request wake up.

nbdkit ends only when every client has hung up, and a virtual machine never
does. Only the reading side is shut down: answers under way still go out, then
nbdkit sees the end of the client's requests and closes the connection itself.
"""

import contextlib
import os
import socket
import stat


def hang_up(spared: socket.socket | None = None) -> int:
    """Shut down the reading side of all connections that were accepted by listening sockets of this process.

    Connections that the process made itself, say to an NBD origin, are left alone, and so are those that were
    accepted by `spared`. Returns their number.
    """
    listening: list[socket.socket] = []
    connected: list[socket.socket] = []
    for name in os.listdir("/proc/self/fd"):
        # Sockets come and go in other threads while this looks at them.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                _sort(socket.socket(fileno=os.dup(int(name))), listening, connected)
    names = {_name(listener) for listener in listening}
    if spared:
        names.discard(_name(spared))
    count = 0
    for connection in connected:
        with contextlib.suppress(OSError):
            connection.getpeername()
            if _name(connection) in names:
                connection.shutdown(socket.SHUT_RD)
                count += 1
    for connection in listening + connected:
        connection.close()
    return count


def _sort(endpoint: socket.socket, listening: list[socket.socket], connected: list[socket.socket]) -> None:
    is_listening = endpoint.type == socket.SOCK_STREAM and endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    (listening if is_listening else connected).append(endpoint)


def _name(endpoint: socket.socket) -> tuple[int, object]:
    """What an accepted socket has in common with its listener: the path of a Unix socket, the port of another."""
    address = endpoint.getsockname()
    return endpoint.family, address[1] if isinstance(address, tuple) else address

# SPDX-License-Identifier: BSD-3-Clause
"""Asks a running server through the socket that it was given with `control=`."""

import json
import os
import socket
import stat
import time

from wbcache_core.errors import ControlError
from wbcache_core.server.history import Facts

_PATIENCE_S = 120
"""A tag is durable before the answer is sent, which takes as long as the log device does."""
_LONGEST_ANSWER = 1 << 24


def is_socket(path: str) -> bool:
    """Whether a path names a socket and not a log. Also False if there is nothing."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_socket(path: str, command: str) -> None:
    """Raises ControlError if a path that was given to a command for running servers is not a socket."""
    if not is_socket(path):
        raise ControlError(f"'{path}' is not a socket; {command} asks a running server: name its control=PATH")


def counted_status(path: str) -> Facts:
    """The answer to `status` of a server that counts. Raises ControlError."""
    facts = ask(path, "status")
    if facts.get("role") == "standby":
        raise ControlError(
            f"the server behind '{path}' is a standby, which does not count what it does: see wbcache status, and for "
            "Prometheus its parameter metrics="
        )
    if "counters" not in facts:
        raise ControlError(
            f"the server behind '{path}' is wbcache {facts.get('version')}, which does not count what it does; start "
            "it again with this version"
        )
    return facts


def ask(path: str, command: str, **fields: object) -> Facts:
    """Send one request; returns the server's answer. Raises ControlError, also if the server refuses."""
    request = json.dumps({"command": command, **fields}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            _connect(connection, path)
            connection.sendall(request)
            line = _receive_line(connection)
    except ConnectionRefusedError:
        raise ControlError(f"no server listens on '{path}' any more; name the log instead") from None
    except TimeoutError:
        raise ControlError(
            f"the server behind '{path}' has not answered for {_PATIENCE_S} s; it is not known whether it "
            "carried out the request"
        ) from None
    except OSError as error:
        raise ControlError(f"cannot ask the server through '{path}': {error.strerror or error}") from None
    if not line:
        raise ControlError(f"the server behind '{path}' closed the connection without an answer; ask again")
    try:
        answer = json.loads(line)
        is_done = answer.pop("ok")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ControlError(f"'{path}' is not a control socket: what it sent is not an answer") from None
    if not is_done:
        raise ControlError(str(answer.get("error")))
    return dict(answer)


def _connect(connection: socket.socket, path: str) -> None:
    """Raises OSError."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.connect(os.fsencode(path))
            return
        except BlockingIOError:
            # Too many clients are waiting to be accepted.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _receive_line(connection: socket.socket) -> bytes:
    """Raises OSError."""
    pieces, length = [], 0
    while length < _LONGEST_ANSWER:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        pieces.append(piece)
        length += len(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)

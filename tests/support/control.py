# SPDX-License-Identifier: BSD-3-Clause
"""A control socket as a program uses it, and the command as people do."""

import json
import socket
import subprocess

from tests.support.clients import REPOSITORY, environment

LIMIT_S = 60


class ControlConnection:
    """One connection; ask() returns the answer as it is, refusals included."""

    def __init__(self, path):
        self._endpoint = socket.socket(socket.AF_UNIX)
        # Without a time limit connect() waits where too many wait to be accepted.
        self._endpoint.connect(str(path))
        self._endpoint.settimeout(LIMIT_S)
        self._lines = self._endpoint.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lines.close()
        self._endpoint.close()

    def send(self, data):
        self._endpoint.sendall(data)

    def line(self):
        """The next answer; None when the server has closed the connection."""
        text = self._lines.readline()
        return json.loads(text) if text else None

    def ask(self, command, **fields):
        self.send(json.dumps({"command": command, **fields}).encode() + b"\n")
        return self.line()


def ask(path, command, **fields):
    """One request on a connection of its own."""
    with ControlConnection(path) as connection:
        return connection.ask(command, **fields)


def wbcache(*words):
    """Run the command; returns status, stdout and stderr."""
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "wbcache_core", *map(str, words)],
        cwd=REPOSITORY, env=dict(environment(), PYTHONDONTWRITEBYTECODE="1"), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr

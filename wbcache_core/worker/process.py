# SPDX-License-Identifier: BSD-3-Clause
"""The server's side of a worker: starts it, asks it, watches it, and ends it.

The worker is a new process, not a fork of the server. It gets the descriptors of origin and log, and with them the
server's locks: until the last process that has them has ended, nobody else can take the pair. It gets them only when it
cannot outlive the server any more.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wbcache_core
from wbcache_core.errors import WorkerLostError
from wbcache_core.worker.channel import Channel, ChannelEndedError
from wbcache_core.worker.serving import ANSWER, BUG, FAILURE, LOG, TIED, Setup
from wbcache_core.worker.shared_page import SharedPage, Wanted

SILENT_SECONDS = 30.0
"""A worker that gives no sign of life for this long is killed."""
_LOOK_SECONDS = 0.1
_END_SECONDS = 5.0

_SCRIPT = str(Path(wbcache_core.__file__).with_name("worker") / "__main__.py")


def interpreters() -> list[str]:
    """Where the Python that runs this may be found. nbdkit embeds one, and does not know its program; sys.executable is
    whatever python3 comes first on PATH."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = [os.path.join(folder, "bin", name) for folder in (sys.base_exec_prefix, sys.base_prefix)]
    candidates = dict.fromkeys([*places, sys.executable or ""])
    return [path for path in candidates if path and os.access(path, os.X_OK)]


class Worker:
    """Used, and ended, by the thread that starts it: the kernel kills the worker when that thread ends."""

    def __init__(
        self,
        setup: Setup,
        wanted: Callable[[], Wanted],
        note: Callable[[int, str], None],
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """Returns when the worker is ready. wanted() is asked while it works, and note(level, text) gets what it logs.
        Raises OSError, WorkerLostError, RuntimeError."""
        self._wanted = wanted
        self._note = note
        self._most_looks = max(int(silent_seconds / _LOOK_SECONDS), 1)
        self._looks_left, self._ticks = self._most_looks, 0
        self._requests = 0
        self.has_ended = False
        self.settles_at = 0.0
        """As of its last answer: what it has abandoned on the origin; see device.Device. While it has not answered, or
        has ended without an answer, anything that it was asked to write may be under way."""
        self._page = SharedPage.new()
        try:
            self._process, self._end = self._spawn()
        except BaseException:
            self._page.close()
            raise
        self._poll = select.poll()
        self._channel = Channel(self._end, self._wait)
        self._hand_over(setup.descriptors)
        self._ask(0, setup)

    def _spawn(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        """The process, and our end of the socket. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            handed_on = [theirs.fileno(), self._page.fd]
            # -S and -P: the path of the modules is the server's, without additions.
            words = ["-S", "-P", _SCRIPT, str(theirs.fileno()), str(self._page.fd), str(os.getpid())]
            try:
                process = subprocess.Popen(
                    [_interpreter(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=handed_on,
                    cwd="/", env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        return process, ours

    def _hand_over(self, descriptors: list[int]) -> None:
        """As soon as the worker cannot outlive this thread any more. Raises WorkerLostError, OSError."""
        try:
            if self._channel.receive() != TIED:
                raise ChannelEndedError
            socket.send_fds(self._end, [b"."], descriptors)
        except ChannelEndedError:
            how = self._how_it_ended()
            self.kill()
            raise WorkerLostError(f"the process that writes to the origin {how}") from None
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str, *arguments: object) -> Any:
        """The answer to a request. Raises what the request raises there, and WorkerLostError if the worker ends, has an
        internal error, or gives no sign of life.

        `has_ended` tells whether the worker is still there after an exception.
        """
        self._requests += 1
        try:
            return self._ask(self._requests, (self._requests, name, arguments))
        except RuntimeError as error:
            # It may have been short of memory, which another one may have. If not, the server meets the same error.
            raise WorkerLostError(f"internal error {error}") from None

    def _ask(self, number: int, message: object) -> Any:
        """Raises what the request raises there, RuntimeError for an internal error there, WorkerLostError."""
        try:
            kind, content = self._exchange(number, message)
        except BaseException:
            # Nobody knows which answer would be the next.
            self.kill()
            raise
        if kind == FAILURE:
            raise content.unpack()
        if kind == BUG:
            self.kill()
            raise RuntimeError(f"in the process that writes to the origin: {content}")
        assert kind == ANSWER
        return content

    def _exchange(self, number: int, message: object) -> tuple[str, Any]:
        """Raises WorkerLostError."""
        self._looks_left = self._most_looks
        self._tell()
        try:
            self._channel.send(message)
            while True:
                answered, (kind, content) = self._channel.receive()
                if kind != LOG:
                    break
                self._note(*content)
        except ChannelEndedError:
            raise WorkerLostError(f"the process that writes to the origin {self._how_it_ended()}") from None
        assert answered == number
        self.settles_at = self._page.settles_at
        return kind, content

    def _wait(self, event: int) -> None:
        """Until the socket is ready. Raises WorkerLostError."""
        self._poll.register(self._end, event)
        while not self._poll.poll(_LOOK_SECONDS * 1000):
            self._tell()
            self._check_alive()
        self._looks_left = self._most_looks

    def _tell(self) -> None:
        self._page.want(self._wanted())

    def _check_alive(self) -> None:
        """Raises WorkerLostError if it has been silent for too long.

        Counted in looks and not by the clock: if the server is stopped for a while, the worker may be as well.
        """
        ticks, before = self._page.ticks, self._ticks
        self._ticks = ticks
        self._looks_left = self._most_looks if ticks != before else self._looks_left - 1
        if self._looks_left <= 0:
            raise WorkerLostError("the process that writes to the origin gives no sign of life and is killed")

    def _how_it_ended(self) -> str:
        """It has hung up. For a message."""
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "has hung up"
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def end(self) -> None:
        """Hang up; it ends by itself. No request is in progress. Returns when it has ended."""
        self._channel.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._page.close()
        self.has_ended = True

    def kill(self) -> None:
        """Returns when it has ended: none of its writes can come any later."""
        self._process.kill()
        self.end()


def _interpreter() -> str:
    """Raises OSError."""
    found = interpreters()
    if not found:
        raise FileNotFoundError(f"no program of Python {sys.version.split()[0]}")
    return found[0]

# SPDX-License-Identifier: BSD-3-Clause
"""Real nbdkit processes for tests: started on a Unix socket or a port, ended by SIGTERM or kill -9, never left behind.

Three things end a server whatever happens to the test: the caller (`stop`, `kill`, `destroy`), a timer of
`lifetime_s` after which it is killed so that no client waits on it for ever, and nbdkit's --exit-with-parent
when pytest itself dies.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

from tests.support.checker import check_pair
from tests.support.clients import REPOSITORY

PLUGIN = os.environ.get("WBCACHE_PLUGIN", str(REPOSITORY / "plugin" / "wbcache.py"))

START_LIMIT_S = 30
STOP_LIMIT_S = 30

# nbdkit before 1.36 can abort itself when a client hangs up with requests queued; that is not the plugin's doing.
HANG_UP_ABORT = re.compile(r"connections\.c:\d+: \w+: Assertion")

UNFINISHED = 3
UNFINISHED_STOP = re.compile(r"the origin is not complete|could not be written and")
"""The exit status that says the same as these messages."""

# What nbdkit says for itself when the other end of a connection has gone away, or for a request that it
# answers with "shutting down". Once one thread has closed its side, replies of the others have no descriptor.
HANG_UP_ERRORS = (
    r"Broken pipe",
    r"Connection reset by peer",
    r"write reply: \w+: Bad file descriptor",
    r"client closed input socket",
    r"failed to read request",
    r"read data: NBD_CMD_WRITE: Bad message",
    r"shutting down",
    r"Cannot send after transport endpoint shutdown",
)

_serial = itertools.count(1)


@contextlib.contextmanager
def running(folder, arguments):
    """An nbdkit for the length of a `with`."""
    server = NbdkitServer(folder, arguments)
    try:
        yield server
    finally:
        server.destroy()


class NbdkitServer:
    """One nbdkit process, running from the constructor on, with its socket, pid file and stderr in `folder`. With a
    `port` it listens on that, of the address, instead of its socket."""

    def __init__(self, folder, arguments, lifetime_s=180, wait=True, prefix=(), port=None, address="127.0.0.1"):
        name = f"nbdkit{next(_serial)}"
        self.socket = Path(folder) / f"{name}.sock"
        self.pid_file = Path(folder) / f"{name}.pid"
        self.stderr_path = Path(folder) / f"{name}.stderr"
        self.uri = f"nbd://{address}:{port}" if port else f"nbd+unix:///?socket={self.socket}"
        self.was_killed = False
        self.overdue = False
        place = ["-i", address, "-p", port] if port else ["-U", self.socket]
        command = [*prefix, "nbdkit", "-f", "--exit-with-parent", *place, "-P", self.pid_file, *arguments]
        self.command = [str(word) for word in command]
        with open(self.stderr_path, "wb") as stderr:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=dict(os.environ, LC_ALL="C", PYTHONDONTWRITEBYTECODE="1"),
            )
        self.pid = self._process.pid
        self._timer = threading.Timer(lifetime_s, self._expire)
        self._timer.daemon = True
        self._timer.start()
        if wait:
            self._wait_until_serving()

    def _expire(self):
        self.overdue = True
        self._process.kill()

    def _wait_until_serving(self):
        """Return when the pid file is there: by then nbdkit listens, so a client can connect at once."""
        deadline = time.monotonic() + START_LIMIT_S
        while not (self.pid_file.exists() and self.pid_file.stat().st_size):
            if not self.running:
                raise AssertionError(f"nbdkit ended at start: {self.describe()}")
            if time.monotonic() > deadline:
                self.destroy()
                raise AssertionError(f"nbdkit not serving after {START_LIMIT_S} s: {self.describe()}")
            time.sleep(0.005)

    @property
    def running(self):
        return self._process.poll() is None

    @property
    def status(self):
        """Exit status, negative for a signal, None while it runs."""
        return self._process.poll()

    def stderr_text(self):
        return self.stderr_path.read_text(errors="replace")

    def describe(self):
        """Command, status and stderr, for messages of failing tests."""
        end = "killed when its lifetime was over" if self.overdue else f"status {self.status}"
        return f"{' '.join(self.command)}\n{end}\n{self.stderr_text()}"

    def terminate(self):
        """Send SIGTERM and return at once."""
        self._process.terminate()

    def wait(self, limit_s=STOP_LIMIT_S):
        """Wait for the end and return how many seconds it took; over the limit it is killed and the test fails."""
        started = time.monotonic()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise AssertionError(f"nbdkit did not end within {limit_s} s: {self.describe()}") from None
        self._timer.cancel()
        return time.monotonic() - started

    def stop(self, limit_s=STOP_LIMIT_S):
        """SIGTERM, wait for the end, and return how many seconds it took."""
        if not self.running:
            raise AssertionError(f"nbdkit ended by itself: {self.describe()}")
        self.terminate()
        return self.wait(limit_s)

    def kill(self):
        """kill -9, as a power cut for everything that is only in the server's memory."""
        if not self.running:
            raise AssertionError(f"nbdkit ended by itself: {self.describe()}")
        self.was_killed = True
        self._process.send_signal(signal.SIGKILL)
        self.wait()

    def destroy(self):
        """Leave no process, whatever state it is in; for clean-up only."""
        self._timer.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def aborted_at_hang_up(self):
        """True if nbdkit itself (not the plugin) aborted because a client hung up with requests queued."""
        return self.status == -signal.SIGABRT and bool(HANG_UP_ABORT.search(self.stderr_text()))

    def assert_clean(self, tolerate=()):
        """Fail unless it ended with the status that its messages make one expect (or by our own kill), and without
        traceback or error on stderr.

        `tolerate`: regular expressions of error lines that belong to the test. With HANG_UP_ERRORS among them, nbdkit's
        own abort at a hang-up is no failure: to the pair it is a kill -9 like another, and is checked as one.
        """
        assert not self.overdue, self.describe()
        if set(HANG_UP_ERRORS) <= set(tolerate) and self.aborted_at_hang_up():
            return
        text = self.stderr_text()
        expected = UNFINISHED if UNFINISHED_STOP.search(text) else 0
        assert self.status == (-signal.SIGKILL if self.was_killed else expected), self.describe()
        assert "Traceback" not in text, self.describe()
        errors = [line for line in text.splitlines() if re.search(r"\berror\b|exception", line, re.IGNORECASE)]
        unexpected = [line for line in errors if not any(re.search(pattern, line) for pattern in tolerate)]
        assert not unexpected, f"unexpected errors: {unexpected}\n{self.describe()}"


class CachePair:
    """An origin and a log in one folder, and the wbcache servers that were started on them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.origin = self.folder / "origin.img"
        self.log = self.folder / "cache.log"
        self.plugin = PLUGIN
        self._servers = []

    def make_origin(self, size, data=b""):
        """A sparse origin of `size` bytes that starts with `data`; returns its path."""
        with open(self.origin, "wb") as origin:
            origin.write(data)
            origin.truncate(size)
        return self.origin

    def start(
        self, *, filters=(), options=(), filter_parameters=(), wait=True, lifetime_s=180, prefix=(), **parameters
    ):
        """Start nbdkit with the plugin; `ring_size="1M"` becomes ring-size=1M, and a list one word for each of its
        items. Unless told, the log has 32 MiB."""
        settings = {"origin": self.origin, "log": self.log, "log_size": "32M", **parameters}
        return self._start(settings, filters, options, filter_parameters, wait, lifetime_s, prefix)

    def start_bare(self, *, options=(), prefix=(), port=None, address="127.0.0.1", **parameters):
        """Start nbdkit with the plugin, these parameters, and a log of 32 MiB unless told."""
        return self._start({"log_size": "32M", **parameters}, (), options, (), True, 180, prefix, port, address)

    def _start(self, settings, filters, options, filter_parameters, wait, lifetime_s, prefix, *listening):
        words = [
            f"{key.replace('_', '-')}={value}"
            for key, values in settings.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        arguments = [*options, *(f"--filter={name}" for name in filters), "python", self.plugin, *words]
        server = NbdkitServer(self.folder, [*arguments, *filter_parameters], lifetime_s, wait, prefix, *listening)
        self._servers.append(server)
        return server

    @contextlib.contextmanager
    def serve(self, *, tolerate=(), check=True, stop_limit_s=STOP_LIMIT_S, **settings):
        """A server for the length of a `with`; at its end: SIGTERM unless the test ended it, clean exit, checker."""
        server = self.start(**settings)
        try:
            yield server
            if server.running:
                server.stop(stop_limit_s)
        except BaseException:
            server.destroy()
            print(server.describe())
            raise
        server.assert_clean(tolerate)
        if check:
            self.check()

    def check(self):
        """Let the project's own checker look at log and origin; no server may run."""
        check_pair(self.log, self.origin)

    def destroy(self):
        for server in self._servers:
            server.destroy()

# SPDX-License-Identifier: BSD-3-Clause
"""`metrics=HOST:PORT`: answers Prometheus over HTTP.

One thread answers one request after another. Whoever has not sent a whole request
after some seconds is cut off, and at a stop everybody is.
"""

import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from wbcache_core import threads
from wbcache_core.errors import ConfigError

_log = logging.getLogger("wbcache")

_SECONDS = 5
_LONGEST_HEAD = 16384
_REST_AFTER_FAILURE = 0.1
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS
    """For the answer."""

    def setup(self) -> None:
        """Read the head here: the limit of the base class holds for each piece of it."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(self._head())

    def _head(self) -> bytes:
        """What came in time; a part of a request is answered as such. Raises OSError."""
        head = bytearray()
        until = time.monotonic() + _SECONDS
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < _LONGEST_HEAD:
            self.connection.settimeout(max(until - time.monotonic(), 0.001))
            if not (data := self.connection.recv(_LONGEST_HEAD)):
                break
            head += data
        self.connection.settimeout(_SECONDS)
        return bytes(head)

    def log_message(self, *_: object) -> None:
        """Nobody wants to read of every scrape."""

    def get_stderr(self) -> Any:
        return _Errors()


class _Errors:
    """Where wsgiref reports what went wrong in a request."""

    def write(self, text: str) -> None:
        _log.debug("metrics: %s", text.rstrip())

    def flush(self) -> None:
        pass


class _Server(WSGIServer):
    allow_reuse_address = True
    connection: socket.socket | None = None
    """The one whose request is being answered. Written by the thread alone; stop() reads it."""

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # No descriptors are left, most likely: the client waits, and accepting is tried again.
            time.sleep(_REST_AFTER_FAILURE)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connection = request
        try:
            super().finish_request(request, client_address)
        finally:
            self.connection = None

    def server_bind(self) -> None:
        # The one of HTTPServer asks the resolver for a name.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, *_: object) -> None:
        """A client that hung up, mostly."""
        _log.debug("a request for metrics failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """`_stopping` is written by stop() alone."""

    def __init__(self, host: str, port: int) -> None:
        """Binds the address; start() answers. Raises ConfigError."""
        self._read: Callable[[], bytes] = lambda: b""
        self._stopping = False
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = kind((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"metrics={host}:{port}: cannot listen there: {error.strerror or error}; name another address or port"
            ) from None
        self._server.set_app(self._answer)
        self._errors = threads.InternalErrors("the thread of the metrics")
        self._thread = threading.Thread(target=self._run, name="wbcache-metrics", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens; of use where any free port was asked for."""
        return self._server.server_port

    def start(self, read: Callable[[], bytes]) -> None:
        """Answer with what `read` returns. Raises NoThreadError."""
        self._read = read
        threads.start(self._thread)

    def stop(self) -> None:
        """Hang up on whoever is being answered, and end the thread. Idempotent."""
        self._stopping = True
        while self._thread.is_alive():
            # Wakes the thread. It may have accepted somebody a moment ago.
            self._hang_up()
            self._thread.join(_REST_AFTER_FAILURE)
        self._server.server_close()

    def _hang_up(self) -> None:
        for endpoint in (self._server.socket, self._server.connection):
            with suppress(OSError):
                if endpoint:
                    endpoint.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._server.handle_request()
            except Exception as error:
                self._errors.note(error)
                time.sleep(_REST_AFTER_FAILURE)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return [b""]
        if path not in ("/", "/metrics"):
            body = b"wbcache: the metrics are at /metrics\n"
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        else:
            try:
                status, body = "200 OK", self._read()
            except Exception as error:
                self._errors.note(error)
                status, body = "500 Internal Server Error", b"# internal error; see the server's messages\n"
            start_response(status, [("Content-Type", _TYPE), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

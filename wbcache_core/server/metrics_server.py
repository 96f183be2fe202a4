# SPDX-License-Identifier: BSD-3-Clause
"""`metrics=HOST:PORT`: answers Prometheus over HTTP.

One thread answers one request after another. Who connects and says nothing is
cut off after some seconds.
"""

import logging
import socket
import threading
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from wbcache_core import threads
from wbcache_core.errors import ConfigError

_log = logging.getLogger("wbcache")

_SECONDS = 5
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

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
        """End the thread, which may be answering for some seconds. Idempotent."""
        self._stopping = True
        # Wakes the thread; nobody connects any more.
        self._server.socket.close() if not self._thread.is_alive() else self._hang_up()
        if self._thread.is_alive():
            self._thread.join()
        self._server.server_close()

    def _hang_up(self) -> None:
        try:
            self._server.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _run(self) -> None:
        while not self._stopping:
            self._server.handle_request()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return [b""]
        if path not in ("/", "/metrics"):
            body = b"wbcache: the metrics are at /metrics\n"
            start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        else:
            body = self._read()
            start_response("200 OK", [("Content-Type", _TYPE), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

# SPDX-License-Identifier: BSD-3-Clause
"""Whatever clients do, and whatever goes wrong, the thread of the metrics answers the next one and can be stopped."""

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from wbcache_core.server import metrics_server
from wbcache_core.server.metrics_server import MetricsServer


@pytest.fixture
def server():
    server = MetricsServer("127.0.0.1", 0)
    server.start(lambda: b"some 1\n")
    yield server
    in_background(server.stop).result(PATIENCE_S)


def fetch(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=PATIENCE_S) as answer:
        return answer.read()


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        yield client


@contextlib.contextmanager
def dripping(server):
    """A client that sends a byte of its request now and then, as long as it is let."""
    over = threading.Event()

    def drip(client):
        client.sendall(b"GET /metrics HTTP/1.0\r\n")
        with contextlib.suppress(OSError):
            while not over.wait(0.1):
                client.sendall(b"x")

    with connected(server) as client:
        done = in_background(drip, client)
        try:
            yield client
        finally:
            over.set()
            done.result(PATIENCE_S)


def test_a_client_that_never_ends_its_request_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(metrics_server, "_SECONDS", 0.5)
    with dripping(server) as client:
        assert fetch(server) == b"some 1\n"
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""


@pytest.mark.parametrize("words", [b"", b"GET /met", b"\x00\xff\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000])
def test_what_is_no_request(server, monkeypatch, words):
    monkeypatch.setattr(metrics_server, "_SECONDS", 0.5)
    with connected(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(words)
        assert fetch(server) == b"some 1\n"


def test_a_stop_hangs_up(server, monkeypatch):
    """On whoever is being answered."""
    monkeypatch.setattr(metrics_server, "_SECONDS", 10 * PATIENCE_S)
    with dripping(server):
        wait_until(lambda: server._server.connection)
        in_background(server.stop).result(PATIENCE_S)


def test_it_survives_an_error(server, caplog, monkeypatch):
    def fail():
        raise MemoryError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(server, "_read", fail)
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetch(server)
            assert refused.value.code == 500
    assert fetch(server) == b"some 1\n"
    assert [record.message for record in caplog.records if record.exc_info] == [
        "internal error in the thread of the metrics, please report it; it goes on"
    ]


def test_its_thread_survives_an_error_before_the_request(server, caplog, monkeypatch):
    handled = []
    handle_request = server._server.handle_request

    def fail():
        handled.append(1)
        if len(handled) < 3:
            raise MemoryError("planted")
        handle_request()

    monkeypatch.setattr(server._server, "handle_request", fail)
    assert fetch(server) == b"some 1\n", "by the call that was waiting"
    assert fetch(server) == b"some 1\n"
    assert len(handled) >= 3
    assert len(caplog.records) == 1


def test_no_busy_loop_without_descriptors(server, monkeypatch):
    """Accepting fails until there are some again."""
    accepted = []

    def get_request(*_):
        accepted.append(1)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(metrics_server.TCPServer, "get_request", get_request)
        with connected(server):
            wait_until(lambda: accepted)
            time.sleep(1)
    assert len(accepted) < 100
    assert fetch(server) == b"some 1\n"

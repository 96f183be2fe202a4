# SPDX-License-Identifier: BSD-3-Clause
"""The transport: whatever clients do, answers come, memory does not grow, and a stop is quick."""

import contextlib
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.support.gated_origin import PATIENCE_S, in_background, wait_until
from wbcache_core.server.control.server import LONGEST_LINE, MOST_CONNECTIONS, ControlServer
from wbcache_core.server.control.socket import ControlSocket


class Echo:
    """A server that answers a line with itself; `wait` when `gate` opens, `big` with two megabytes."""

    def __init__(self, path):
        self.path = str(path)
        self.gate = threading.Event()
        self.ticks = 0
        self.server = ControlServer(ControlSocket(self.path), self._answer, b"too long\n", self._tick)
        self.server.start()

    def _answer(self, line):
        if line == b"wait":
            return self._wait
        return b"b" * (2 << 20) + b"\n" if line == b"big" else line + b"\n"

    def _wait(self):
        assert self.gate.wait(PATIENCE_S)
        return b"waited\n"

    def _tick(self):
        self.ticks += 1

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        # Without a time limit connect() waits where too many wait to be accepted.
        client.connect(self.path)
        client.settimeout(PATIENCE_S)
        return client

    def ask(self, line):
        with self.connect() as client:
            client.sendall(line + b"\n")
            return line_of(client)


def line_of(client):
    """Up to the end of the line, or of the connection, and nothing behind it."""
    found = b""
    while not found.endswith(b"\n"):
        seen = client.recv(1 << 16, socket.MSG_PEEK)
        if not seen:
            break
        found += client.recv(seen.find(b"\n") + 1 or len(seen))
    return found


@pytest.fixture
def echo():
    with tempfile.TemporaryDirectory(prefix="wbc-") as name:
        echo = Echo(Path(name) / "c")
        yield echo
        echo.gate.set()
        in_background(echo.server.stop).result(PATIENCE_S)
        assert not os.listdir(name)
        assert not [one for one in threading.enumerate() if one.name.startswith("wbcache-control")]


def test_lines_in_lines_out(echo):
    with echo.connect() as client:
        client.sendall(b"one\n\n  \ntwo\nthr")
        assert line_of(client) == b"one\n" and line_of(client) == b"two\n"
        client.sendall(b"ee")
        client.shutdown(socket.SHUT_WR)
        assert line_of(client) == b"three\n"
        assert client.recv(1) == b""


@pytest.mark.parametrize("end", [b"", b"\n", b"\nnext\n"])
def test_a_line_that_is_too_long(echo, end):
    with echo.connect() as client:
        client.sendall(b"x" * LONGEST_LINE + b"\n")
        assert line_of(client) == b"x" * LONGEST_LINE + b"\n"
        client.sendall(b"x" * (LONGEST_LINE + 1) + end)
        assert line_of(client) == b"too long\n"
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_line_without_end(echo):
    """Megabytes of it: the connection is closed, nothing is kept."""
    with echo.connect() as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(1000):
            client.sendall(b"x" * 65536)
    assert echo.ask(b"on") == b"on\n"


def test_who_waits_for_a_device_keeps_nobody_waiting(echo):
    with echo.connect() as slow, echo.connect() as second:
        slow.sendall(b"wait\nafter\n")
        second.sendall(b"wait\n")
        assert [echo.ask(b"%d" % number) for number in range(5)] == [b"%d\n" % number for number in range(5)]
        echo.gate.set()
        assert line_of(slow) == b"waited\n" and line_of(slow) == b"after\n" and line_of(second) == b"waited\n"


def test_who_does_not_read_keeps_nobody_waiting(echo):
    """And is not answered any further, so that no more than one answer of each is kept."""
    clients = [echo.connect() for _ in range(10)]
    for client in clients:
        client.sendall(b"big\n" * 500)
    assert echo.ask(b"on") == b"on\n"
    kept = [len(one.unsent) + len(one.received) for one in echo.server._connections]
    assert len(kept) >= 10 and all(size < (2 << 20) + 3 * LONGEST_LINE for size in kept)
    assert line_of(clients[0]) == b"b" * (2 << 20) + b"\n"
    for client in clients:
        client.close()
    wait_until(lambda: not echo.server._connections)


def test_a_flood_of_lines_leaves_most_of_the_time_to_others(echo):
    stop = threading.Event()

    def flood():
        with echo.connect() as client:
            reader = threading.Thread(target=lambda: all(iter(lambda: client.recv(1 << 16), b"")), daemon=True)
            reader.start()
            while not stop.is_set():
                client.sendall(b"nonsense\n" * 400)
            client.shutdown(socket.SHUT_WR)
            reader.join(PATIENCE_S)

    floods = [in_background(flood) for _ in range(3)]
    try:
        time.sleep(0.3)
        clock = time.pthread_getcpuclockid(echo.server._thread.ident)
        before, started = time.clock_gettime(clock), time.monotonic()
        for _ in range(5):
            assert echo.ask(b"on") == b"on\n"
        time.sleep(1)
        used = (time.clock_gettime(clock) - before) / (time.monotonic() - started)
        assert used < 0.35, used
    finally:
        stop.set()
        for one in floods:
            one.result(PATIENCE_S)


def test_idle_connections_give_way(echo):
    idle = [echo.connect() for _ in range(5 * MOST_CONNECTIONS)]
    assert echo.ask(b"on") == b"on\n"
    assert len(echo.server._connections) <= MOST_CONNECTIONS
    idle[-1].sendall(b"late\n")
    assert line_of(idle[-1]) == b"late\n"
    assert idle[0].recv(1) == b""
    for client in idle:
        client.close()


def test_busy_connections_do_not_give_way(echo):
    busy = [echo.connect() for _ in range(MOST_CONNECTIONS)]
    for client in busy:
        client.sendall(b"wait\n")
    wait_until(lambda: sum(one.is_busy for one in echo.server._connections) == MOST_CONNECTIONS)
    with echo.connect() as late:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            late.sendall(b"on\n")
        with contextlib.suppress(ConnectionResetError):
            assert late.recv(1) == b""
    echo.gate.set()
    assert [line_of(client) for client in busy] == [b"waited\n"] * MOST_CONNECTIONS
    for client in busy:
        client.close()


def test_a_client_that_goes_away_while_it_is_answered(echo):
    with echo.connect() as client:
        client.sendall(b"wait\n")
        wait_until(lambda: any(one.is_busy for one in echo.server._connections))
    echo.gate.set()
    wait_until(lambda: not echo.server._connections)
    assert echo.ask(b"on") == b"on\n"


def test_no_descriptors_left(echo, monkeypatch):
    """It is tried again, at leisure."""
    accept, failures = socket.socket.accept, []

    def failing(self):
        if len(failures) < 3:
            failures.append(time.monotonic())
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    assert echo.ask(b"on") == b"on\n"
    assert failures[2] - failures[0] > 0.15


def test_a_stop_waits_for_what_is_in_hand_and_for_nothing_else(echo):
    clients = [echo.connect() for _ in range(4)]
    clients[0].sendall(b"wait\n")
    clients[1].sendall(b"big\n" * 100)
    clients[2].sendall(b"x" * 100)
    wait_until(lambda: any(one.is_busy for one in echo.server._connections))
    stopping = in_background(echo.server.stop)
    time.sleep(0.2)
    assert not stopping.done()
    echo.gate.set()
    started = time.monotonic()
    stopping.result(PATIENCE_S)
    assert time.monotonic() - started < 5
    for client in clients:
        client.close()


def test_one_that_was_never_started():
    with tempfile.TemporaryDirectory(prefix="wbc-") as name:
        server = ControlServer(ControlSocket(f"{name}/c"), lambda line: line, b"\n", lambda: None)
        server.stop()
        server.stop()
        assert not os.listdir(name)


def assert_logged_once(caplog, sentence):
    records = [record for record in caplog.records if sentence in record.message]
    assert len(records) == 1
    assert records[0].exc_info, "it has a traceback"


def test_it_survives_an_error_of_a_tick(echo, caplog):
    def fail():
        echo.ticks += 1
        raise MemoryError(f"planted {echo.ticks}")

    echo.server._on_tick = fail
    before = echo.ticks
    for number in range(3):
        assert echo.ask(b"%d" % number) == b"%d\n" % number
    wait_until(lambda: echo.ticks >= before + 3)
    assert_logged_once(caplog, "internal error in the thread of the control socket")


def test_it_survives_an_error_with_a_connection(echo, caplog, monkeypatch):
    """Connections end, and new ones are answered."""

    def fail(*_):
        raise MemoryError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(ControlServer, "_answer_next", fail)
        for _ in range(2):
            assert echo.ask(b"line") == b""
    assert echo.ask(b"line") == b"line\n"
    assert_logged_once(caplog, "internal error in the thread of the control socket")


def test_it_survives_an_error_of_a_request_that_waits(echo, caplog, monkeypatch):
    def fail(*_):
        raise MemoryError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(echo, "_wait", fail)
        for _ in range(2):
            assert echo.ask(b"wait") == b""
    echo.gate.set()
    assert echo.ask(b"wait") == b"waited\n"
    assert_logged_once(caplog, "internal error in a request through the control socket")

# SPDX-License-Identifier: BSD-3-Clause
"""The process that writes to an NBD origin: killed in the middle of a batch, refused by the origin, left waiting."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.gated_origin import wait_until
from tests.support.holding_server import HoldingServer, Relay
from tests.support.modelled_load import ModelledVolume
from tests.support.nbdkit_server import HANG_UP_ERRORS, NbdkitServer, running
from tests.support.worker_processes import is_running, workers_of

MIB = 1 << 20
PAGE = 4096
AT = 5 * PAGE
SIZE = 4 * MIB
OLD, NEW = b"o" * PAGE, b"n" * PAGE
SETTLE_S = 2
LONG_ENOUGH_S = 0.7
"""For everything to reach the origin, were it not for what has to be waited for."""
SETTINGS = {
    "ring_size": "1M",
    "log_size": "16M",
    "destage_delay": "0",
    "low_watermark": "0",
    "on_exit": "destage",
    "origin_settle": f"{SETTLE_S}s",
}
NOISE = [
    "the batch is repeated", "nothing is lost", "destaging", "origin 'nbd", "the connection to origin", *HANG_UP_ERRORS,
]  # fmt: skip


@pytest.fixture
def image(folder):
    path = folder / "image"
    path.write_bytes(bytes(SIZE))
    return path


def file_server(folder, image, *words, options=()):
    return running(folder, [*options, "file", image, *words])


@pytest.fixture
def holding(folder, image):
    server = HoldingServer(folder, image)
    yield server
    server.destroy()


def page_of(image, offset):
    return image.read_bytes()[offset : offset + PAGE]


def write(server, data, offset=AT):
    with clients.connection(server.uri) as handle:
        handle.pwrite(data, offset)
        handle.flush()


def worker_of(server):
    wait_until(lambda: workers_of(server))
    (pid,) = workers_of(server)
    return pid


def write_through_a_worker(server, image):
    """So there is one, and it has a connection."""
    write(server, OLD, 0)
    wait_until(lambda: page_of(image, 0) == OLD)
    return worker_of(server)


def kill_the_worker(server):
    pid = worker_of(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))


def test_it_has_its_own_connections_and_no_secret_on_its_command_line(pair, folder, image):
    """By way of TLS with a key, named by a relative path."""
    key = folder / "keys.psk"
    key.write_text("alice:0123456789abcdef0123456789abcdef\n")
    with file_server(folder, image, options=["--tls=require", f"--tls-psk={key}"]) as origin:
        relative = os.path.relpath(key)
        pair.origin = f"nbds+unix://alice@/?socket={origin.socket}&tls-psk-file={relative}"
        control = folder / "control"
        with pair.serve(tolerate=NOISE, check=False, control=control, **SETTINGS) as server:
            worker = write_through_a_worker(server, image)
            words = Path(f"/proc/{worker}/cmdline").read_bytes() + Path(f"/proc/{worker}/environ").read_bytes()
            assert b"alice" not in words
            assert str(origin.socket).encode() not in words
            assert ask(control, "status")["worker"] == {"used": True, "why_not": None}
            found = [os.readlink(f"/proc/{worker}/fd/{number}") for number in os.listdir(f"/proc/{worker}/fd")]
            assert len([name for name in found if name.startswith("socket:")]) > 1


def test_a_killed_worker_and_a_write_that_lands_later(pair, folder, image, holding):
    """What it had sent may still be carried out: the batch is repeated after that."""
    pair.origin = holding.uri
    control = folder / "control"
    with pair.serve(tolerate=NOISE, check=False, control=control, **SETTINGS) as server:
        write_through_a_worker(server, image)
        holding.hold_next()
        write(server, OLD)
        holding.wait_until_held()
        kill_the_worker(server)
        write(server, NEW)
        time.sleep(LONG_ENOUGH_S)
        assert 0 < ask(control, "status")["origin_settles"] < SETTLE_S
        assert page_of(image, AT) == bytes(PAGE)
        with clients.connection(server.uri) as handle:
            assert handle.pread(PAGE, AT) == NEW
        holding.release()
        server.stop()
        assert "the origin is not complete" not in server.stderr_text()
        assert "was killed by signal 9; the batch is repeated in" in server.stderr_text()
    assert page_of(image, AT) == NEW


def test_what_a_worker_abandoned_outlives_it(pair, folder, image, holding):
    """Its connection is cut, it says so, and then it is killed: the next one waits all the same."""
    relay = Relay(folder, holding.socket)
    try:
        pair.origin = relay.uri
        control = folder / "control"
        with pair.serve(tolerate=NOISE, check=False, control=control, **SETTINGS) as server:
            write_through_a_worker(server, image)
            holding.hold_next()
            write(server, OLD)
            holding.wait_until_held()
            relay.cut()
            wait_until(lambda: ask(control, "status")["origin_settles"])
            kill_the_worker(server)
            write(server, NEW)
            time.sleep(LONG_ENOUGH_S)
            holding.release()
            server.stop()
        assert page_of(image, AT) == NEW
    finally:
        relay.destroy()


def test_workers_that_are_killed_again_and_again_lose_nothing(pair, folder, image, seed):
    with file_server(folder, image) as origin:
        pair.origin = origin.uri
        written = ModelledVolume(bytes(SIZE), seed)
        over = threading.Event()
        settings = SETTINGS | {"origin_settle": "200ms"}
        with pair.serve(tolerate=[*NOISE, "the server does that itself"], check=False, **settings) as server:

            def load():
                while not over.is_set():
                    written.run(server.uri, MIB // 2, largest=64 * 1024)

            loader = threading.Thread(target=load)
            loader.start()
            pause = random.Random(seed)
            killed = 0
            try:
                until = time.monotonic() + 60
                # After three in a row without a batch there is none for a while.
                while killed < 4 and "does that itself" not in server.stderr_text():
                    assert time.monotonic() < until
                    for pid in workers_of(server):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                    time.sleep(pause.uniform(0.2, 0.9))
            finally:
                over.set()
                loader.join()
            assert killed >= 3
            written.compare(server.uri)
            server.stop()
            assert "the origin is not complete" not in server.stderr_text()
        written.compare_origin(image)
    pair.origin = image
    pair.check()


def test_a_drain_waits_for_a_silent_origin_until_the_second_signal(pair, folder, image):
    """Longer than the time limit of a request, though it is the worker that waits."""
    with file_server(folder, image) as origin:
        pair.origin = origin.uri
        tolerate = [*NOISE, "the origin is not complete"]
        with pair.serve(tolerate=tolerate, check=False, origin_timeout="2s", **SETTINGS) as server:
            worker = write_through_a_worker(server, image)
            os.kill(origin.pid, signal.SIGSTOP)
            write(server, NEW)
            server.terminate()
            time.sleep(3.5)
            assert is_running(worker)
            assert "has not answered" not in server.stderr_text()
            server.terminate()
            assert server.wait(25) < 20
            assert not is_running(worker)


def test_no_worker_where_connections_do_not_see_the_same(pair, folder, image):
    """What one connection has flushed, another might not read."""
    words = ["--filter=multi-conn", "file", image, "multi-conn-mode=disable"]
    origin = NbdkitServer(folder, words)
    try:
        pair.origin = origin.uri
        control = folder / "control"
        with pair.serve(tolerate=NOISE, check=False, control=control, **SETTINGS) as server:
            write(server, NEW)
            wait_until(lambda: page_of(image, AT) == NEW)
            assert not workers_of(server)
            assert "(multi-conn)" in ask(control, "status")["worker"]["why_not"]
            assert "the server itself writes to the origin: the origin does not offer" in wbcache("status", control)[1]
    finally:
        origin.destroy()


def test_an_origin_that_has_one_connection_for_the_server_and_none_for_a_worker(pair, folder, image):
    origin = NbdkitServer(folder, ["--filter=limit", "file", image, "limit=1"])
    try:
        pair.origin = origin.uri
        control = folder / "control"
        with pair.serve(tolerate=[*NOISE, "cannot connect"], check=False, control=control, **SETTINGS) as server:
            write(server, NEW)
            wait_until(lambda: page_of(image, AT) == NEW)
            wait_until(lambda: not ask(control, "status")["worker"]["used"])
            assert "for 300 s the server does that itself" in server.stderr_text()
            assert "stalled" not in server.stderr_text()
            write(server, OLD)
            wait_until(lambda: page_of(image, AT) == OLD)
    finally:
        origin.destroy()


def test_an_origin_that_was_away_is_no_reason_to_do_without_a_worker(pair, folder, image):
    link = folder / "origin.sock"
    with file_server(folder, image) as first:
        link.symlink_to(first.socket)
        pair.origin = f"nbd+unix:///?socket={link}"
        control = folder / "control"
        settings = SETTINGS | {"origin_settle": "0", "control": control}
        with pair.serve(tolerate=[*NOISE, "cannot connect"], check=False, **settings) as server:
            write_through_a_worker(server, image)
            first.destroy()
            write(server, NEW)
            wait_until(lambda: "destaging is stalled" in server.stderr_text())
            with file_server(folder, image) as second:
                link.unlink()
                link.symlink_to(second.socket)
                wait_until(lambda: page_of(image, AT) == NEW)
                assert ask(control, "status")["worker"]["used"]
                assert worker_of(server)
                server.stop()

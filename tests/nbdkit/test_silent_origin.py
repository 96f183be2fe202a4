# SPDX-License-Identifier: BSD-3-Clause
"""An NBD origin's server that says nothing any more, is slow to begin, is slow, or is to end while nobody asks it."""

import threading
import time

import pytest

from tests.support import clients
from tests.support.gated_origin import in_background, wait_until
from tests.support.nbdkit_server import HANG_UP_ERRORS, NbdkitServer
from tests.support.stopped import stop_process
from tests.support.volatile_disk import VolatileDisk
from wbcache_core.device import nbd_device
from wbcache_core.device.nbd_device import NbdDevice
from wbcache_core.device.nbd_times import NbdTimes
from wbcache_core.errors import DeviceLostError

PAGE = 4096
SIZE = 64 * PAGE
OLD, NEW = b"o" * PAGE, b"n" * PAGE
TIMES = NbdTimes(settle=0, timeout=0.6, connect=5)
SETTINGS = {"ring_size": "1M", "log_size": "8M", "destage_delay": "0", "low_watermark": "0", "on_exit": "destage",
            "origin_timeout": "600ms"}  # fmt: skip
NOISE = ["destaging", "the connection to origin", "has not answered", *HANG_UP_ERRORS]


class Address:
    """A socket name behind which one server of the same image follows another."""

    def __init__(self, folder):
        self._folder, self._link, self._servers = folder, folder / "origin.sock", []
        self.image = folder / "image"
        self.image.write_bytes(bytes(SIZE))
        self.uri = f"nbd+unix:///?socket={self._link}"

    @property
    def server(self):
        return self._servers[-1]

    def serve(self, *words):
        self._servers.append(NbdkitServer(self._folder, [*words[:1], "file", self.image, *words[1:]]))
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self.server.socket)

    def silence(self):
        stop_process(self.server.pid)

    def destroy(self):
        for server in self._servers:
            server.destroy()


@pytest.fixture
def address(folder):
    address = Address(folder)
    yield address
    address.destroy()


def read(device, at=0):
    page = memoryview(bytearray(PAGE))
    device.read_into(page, at)
    return bytes(page)


def test_a_client_reads_from_the_successor_of_a_silent_server(pair, address):
    address.image.write_bytes(OLD * 64)
    address.serve()
    pair.origin = address.uri
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 0) == OLD
        address.silence()
        address.serve()
        assert in_background(handle.pread, PAGE, 8 * PAGE).result(20) == OLD


def test_what_is_written_reaches_the_successor_of_a_silent_server(pair, address):
    """After what may still be under way has settled."""
    address.serve()
    pair.origin = address.uri
    with pair.serve(tolerate=NOISE, check=False, origin_settle="2s", **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            # So there are connections to this server.
            handle.pwrite(NEW, 0)
            handle.flush()
            wait_until(lambda: address.image.read_bytes()[:PAGE] == NEW)
            address.silence()
            silent_since = time.monotonic()
            handle.pwrite(NEW, 5 * PAGE)
            handle.flush()
            address.serve()
            wait_until(lambda: address.image.read_bytes()[5 * PAGE : 6 * PAGE] == NEW)
            assert time.monotonic() - silent_since > 2.5
        server.stop()
        assert "the origin is not complete" not in server.stderr_text()


def test_writes_that_got_no_answer_have_to_settle(address):
    address.serve()
    device = NbdDevice(address.uri, 1, TIMES._replace(settle=20))
    address.silence()
    with pytest.raises(DeviceLostError, match="has not answered"):
        in_background(device.write, [memoryview(NEW)], 0).result(20)
    assert device.settles_at > time.monotonic() + 10
    device.close()


def test_all_that_wait_for_a_silent_server_go_on(address):
    """Also where others are answered by its successor all the time."""
    address.serve()
    device = NbdDevice(address.uri, 4, TIMES)
    taken = [device._take() for _ in range(3)]
    for connection in taken:
        device._give_back(connection)
    address.silence()
    waiting = [in_background(read, device) for _ in range(2)]
    time.sleep(0.1)
    address.serve()
    over = time.monotonic() + 3
    others = in_background(lambda: [read(device) for _ in iter(lambda: time.monotonic() < over, False)])
    started = time.monotonic()
    for one in waiting:
        one.result(20)
    assert time.monotonic() - started < 5
    others.result(20)
    device.close()


def test_a_slow_server_is_alive_while_it_answers_others(address):
    """One request takes longer than the limit; others are answered meanwhile."""
    address.serve("--filter=delay", "wdelay=1500ms")
    device = NbdDevice(address.uri, 2, TIMES)
    over = threading.Event()

    def read_on():
        while not over.is_set():
            read(device)
            time.sleep(0.02)

    taken = [device._take() for _ in range(2)]
    for connection in taken:
        device._give_back(connection)
    reading = in_background(read_on)
    wait_until(lambda: all(connection.answered_at > connection.connected_at for connection in taken[-1:]))
    in_background(device.write, [memoryview(NEW)], 0).result(20)
    over.set()
    reading.result(20)
    device.close()


def test_what_was_given_up_gets_more_time(address):
    """Nothing is answered within the limit, and in the end all is."""
    address.serve("--filter=delay", "rdelay=1000ms")
    device = NbdDevice(address.uri, 1, TIMES)
    started = time.monotonic()
    in_background(read, device).result(20)
    assert time.monotonic() - started > 1.5
    device.close()


def test_a_flush_may_take_longer(folder):
    disk = VolatileDisk(folder, "origin", SIZE)
    try:
        disk.start(flush_seconds=1.5)
        device = NbdDevice(disk.uri, 1, TIMES)
        device.write([memoryview(NEW)], 0)
        in_background(device.sync).result(20)
        device.close()
    finally:
        disk.destroy()
    assert disk.durable.read_bytes()[:PAGE] == NEW


def test_a_drain_is_not_given_up(address):
    address.serve("--filter=delay", "wdelay=1500ms")
    device = NbdDevice(address.uri, 1, TIMES)
    device.be_patient()
    in_background(device.write, [memoryview(NEW)], 0).result(20)
    device.close()


def test_a_server_that_is_slow_to_begin(pair, address):
    address.serve("--filter=delay", "delay-open=4")
    pair.origin = address.uri
    with pair.serve(check=False) as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, 0) == bytes(PAGE)


def test_a_limit_for_the_beginning(address):
    address.serve()
    address.silence()
    started = time.monotonic()
    with pytest.raises(DeviceLostError, match="origin-connect-timeout"):
        NbdDevice(address.uri, 1, TIMES._replace(connect=0.5))
    assert time.monotonic() - started < 4


def test_nobody_waits_for_one_more_connection_where_another_is_idle(address):
    address.serve()
    device = NbdDevice(address.uri, 2, TIMES._replace(connect=15))
    only = device._take()
    address.silence()
    waiting = in_background(device._take)
    wait_until(lambda: device._connecting == 1)
    device._give_back(only)
    started = time.monotonic()
    assert waiting.result(10) is only
    assert time.monotonic() - started < 3
    device.close()


def test_a_server_may_end_while_nobody_asks_it(pair, address, monkeypatch):
    """A whole cache that has nothing to do lets it go."""
    from wbcache_core.server.cache import Cache
    from wbcache_core.server.config import Config

    monkeypatch.setattr(nbd_device, "_CHECK_SECONDS", 0.4)
    address.serve()
    settings = {"origin": address.uri, "log": str(pair.log), "log-size": "8M", "ring-size": "1M"}
    cache = Cache(Config.from_pairs(settings.items()))
    try:
        cache.activate()
        address.server.stop(10)
    finally:
        cache.stop()


def test_an_unused_connection_is_kept_when_the_server_answers(address):
    address.serve()
    device = NbdDevice(address.uri, 1, TIMES)
    device.check_seconds = 0
    only = device._idle[0]
    time.sleep(0.01)
    device.check_idle()
    assert device._idle == [only]
    assert only.answered_at > only.connected_at
    device.close()

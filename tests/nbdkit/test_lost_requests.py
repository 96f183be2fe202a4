# SPDX-License-Identifier: BSD-3-Clause
"""Writes that the origin's server carries out only when their connection, or the cache that sent them, is long gone."""

import contextlib
import subprocess
import time

import pytest

from tests.support import clients, mounts
from tests.support.control import ask, wbcache
from tests.support.holding_server import HoldingServer, Relay
from tests.support.nbdkit_server import HANG_UP_ERRORS, NbdkitServer
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceInUseError

MIB = 1 << 20
PAGE = 4096
AT = 5 * PAGE
OLD, NEW = b"o" * PAGE, b"n" * PAGE
SETTLE_S = 3
SETTINGS = {
    "ring_size": "1M",
    "log_size": "8M",
    "destage_delay": "0",
    "low_watermark": "0",
    "on_exit": "destage",
    "origin_settle": f"{SETTLE_S}s",
}
NOISE = ["destaging", "the connection to origin", *HANG_UP_ERRORS]
LONG_ENOUGH_S = 1.5
"""For everything to reach the origin, were it not for what has to be waited for."""


@pytest.fixture
def image(folder):
    path = folder / "image"
    path.write_bytes(bytes(MIB))
    return path


@pytest.fixture
def holding(folder, image):
    server = HoldingServer(folder, image)
    yield server
    server.destroy()


@contextlib.contextmanager
def relayed(folder, holding):
    relay = Relay(folder, holding.socket)
    try:
        yield relay
    finally:
        relay.destroy()


def write_old(server, holding):
    """A flushed write whose way to the origin is not over."""
    with clients.connection(server.uri) as handle:
        holding.hold_next()
        handle.pwrite(OLD, AT)
        handle.flush()
        holding.wait_until_held()


def assert_new(pair, image):
    """On the origin alone, and in the volume after a start."""
    assert image.read_bytes()[AT : AT + PAGE] == NEW
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server, clients.connection(server.uri) as handle:
        assert handle.pread(PAGE, AT) == NEW


def test_a_write_that_lands_after_its_connection_was_cut(pair, folder, image, holding):
    with relayed(folder, holding) as relay:
        pair.origin = relay.uri
        control = folder / "control"
        with pair.serve(tolerate=NOISE, check=False, control=control, **SETTINGS) as server:
            write_old(server, holding)
            relay.cut()
            with clients.connection(server.uri) as handle:
                handle.pwrite(NEW, AT)
                handle.flush()
            time.sleep(LONG_ENOUGH_S)
            assert 0 < ask(control, "status")["origin_settles"] < SETTLE_S
            assert "destaging waits until" in wbcache("status", control)[1]
            holding.release()
            server.stop()
            assert "the origin is not complete" not in server.stderr_text()
        assert_new(pair, image)


def test_a_write_that_lands_after_the_cache_was_killed(pair, image, holding):
    pair.origin = holding.uri
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
        write_old(server, holding)
        server.kill()
    with pair.serve(tolerate=NOISE, check=False, **SETTINGS) as server:
        with clients.connection(server.uri) as handle:
            handle.pwrite(NEW, AT)
            handle.flush()
        time.sleep(LONG_ENOUGH_S)
        holding.release()
        server.stop()
        assert "the origin is not complete" not in server.stderr_text()
    assert_new(pair, image)


def test_a_flush_that_waits_for_the_origin_waits_for_lost_writes(pair, folder, image, holding):
    """It fails neither, though it takes longer than one waits for an origin that fails."""
    settings = {**SETTINGS, "flush": "origin", "origin_settle": "7s"}
    with relayed(folder, holding) as relay:
        pair.origin = relay.uri
        with pair.serve(tolerate=NOISE, check=False, **settings) as server:
            with clients.connection(server.uri) as handle:
                holding.hold_next()
                handle.pwrite(OLD, AT)
                command = handle.aio_flush()
                holding.wait_until_held()
                relay.cut()
                cut_at = time.monotonic()
                handle.pwrite(NEW, AT)
                while not handle.aio_command_completed(command):
                    if time.monotonic() > cut_at + 2:
                        holding.release()
                    handle.poll(100)
                assert time.monotonic() - cut_at > 6
                handle.flush()
                assert image.read_bytes()[AT : AT + PAGE] == NEW


WRITER = """
import sys
from wbcache_core.device.device import aligned_buffer
from wbcache_core.device.file_device import FileDevice
device, page = FileDevice(sys.argv[1], "origin"), aligned_buffer(4096)
page[:] = b"w" * 4096
print("ready", flush=True)
device.write_bulk([(block * 8192, [page]) for block in range(4)])
"""


def test_a_lock_outlives_the_writes_of_a_killed_process(folder, image):
    """A file whose writes take a second each, four of them handed to the kernel in one call, and a kill in the first:
    whoever gets the lock on it finds that nothing changes any more."""
    backing = NbdkitServer(folder, ["--filter=delay", "file", image, "wdelay=1000ms"])
    try:
        with mounts.fuse_file(backing.uri, folder, "origin") as path:
            command = ["/usr/bin/python3", "-c", WRITER, path]
            with subprocess.Popen(command, cwd=clients.REPOSITORY, stdout=subprocess.PIPE) as writer:
                assert writer.stdout.readline() == b"ready\n"
                time.sleep(0.4)
                writer.kill()
                killed_at = time.monotonic()
                while True:
                    try:
                        FileDevice(str(path), "origin").close()
                        break
                    except DeviceInUseError:
                        time.sleep(0.01)
                waited, found = time.monotonic() - killed_at, image.read_bytes()
            time.sleep(1.5)
            assert image.read_bytes() == found
            assert b"w" in found
            assert waited > 0.2
    finally:
        backing.destroy()

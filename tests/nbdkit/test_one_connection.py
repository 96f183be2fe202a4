# SPDX-License-Identifier: BSD-3-Clause
"""An origin whose connections need not see the same data: there is one, so nobody reads what was there before."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import clients
from tests.support.nbdkit_server import running
from wbcache_core.device.nbd_device import NbdDevice

PAGE = 4096
SIZE = 1 << 20
PLUGIN = clients.REPOSITORY / "tests" / "support" / "forgetful_plugin.py"
READERS = 8


@contextlib.contextmanager
def serving(folder, multi, pause=0.02):
    """The URI, and a function that tells how many connections there were."""
    counter = folder / "counter"
    counter.write_text("")
    words = ["python", PLUGIN, f"size={SIZE}", f"multi={multi}", f"counter={counter}", f"pause={pause}"]
    with running(folder, words) as server:
        yield server.uri, lambda: len(counter.read_text())


@contextlib.contextmanager
def device_of(uri):
    device = NbdDevice(uri, READERS)
    try:
        yield device
    finally:
        device.close()


def read_at_once(device):
    """What many readers at the same time find in the first page."""

    def read(_):
        page = bytearray(PAGE)
        device.read_into(memoryview(page), 0)
        return bytes(page)

    with ThreadPoolExecutor(READERS) as pool:
        return set(pool.map(read, range(4 * READERS)))


@pytest.mark.parametrize("multi", ["no", "yes"])
def test_nobody_reads_what_was_there_before(folder, multi):
    with serving(folder, multi) as (uri, connections), device_of(uri) as device:
        assert read_at_once(device) == {bytes(PAGE)}
        device.write([memoryview(b"n" * PAGE)], 0)
        device.sync()
        assert read_at_once(device) == {b"n" * PAGE}
        # After that one the test itself connected to see whether the server is there.
        assert (connections() > 2) == (multi == "yes")


def test_a_limit_that_is_raised(folder):
    with serving(folder, "no") as (uri, connections), device_of(uri) as device:
        device.allow_connections(2 * READERS)
        read_at_once(device)
        assert connections() <= 2


def test_a_volume_with_such_an_origin(pair, folder):
    """Clients that read from the origin, which the destager has just written, get that."""
    settings = {"ring_size": "1M", "log_size": "4M", "destage_delay": "0", "low_watermark": "0"}
    with serving(folder, "no", pause=0.001) as (uri, _):
        with pair.serve(origin=uri, check=False, **settings) as server, clients.connection(server.uri) as handle:
            with ThreadPoolExecutor(READERS) as pool, contextlib.ExitStack() as stack:
                others = [stack.enter_context(clients.connection(server.uri)) for _ in range(READERS)]
                for letter in (b"a", b"b", b"c"):
                    handle.pwrite(letter * SIZE, 0)
                    handle.flush()
                    # More than the log holds, so that the first blocks are read from the origin.
                    for _ in range(6):
                        handle.pwrite(letter * (SIZE // 2), SIZE // 2)
                        handle.flush()
                    found = pool.map(lambda other: bytes(other.pread(SIZE, 0)), others)
                    assert set(found) == {letter * SIZE}

# SPDX-License-Identifier: BSD-3-Clause
"""Clients that vanish with requests queued. nbdkit before 1.36 may abort itself then: a killed server like another."""

import subprocess
import time

import nbd
import pytest

from tests.support import clients
from tests.support.nbdkit_server import HANG_UP_ERRORS

MIB = 1 << 20
LOAD_AREA = 8 * MIB
MARKER = bytes(range(1, 256)) * 257
MARKER_OFFSET = 9 * MIB + 77
TINY = {"ring_size": "1M", "log_size": "4M"}
SETTINGS = [{}, TINY, {**TINY, "ack": "origin"}]


def _queue_and_vanish(uri):
    """Send as many writes as the socket takes, read no answer, and close the socket."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for place in range(0, LOAD_AREA, 65536):
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(65536)), place, lambda error: 1)
    time.sleep(0.02)
    del handle


def _bench_and_kill(uri):
    """kill -9 of a client process that has 64 requests in flight."""
    load = clients.start(
        *("qemu-img", "bench", "-f", "raw", "-w", "-c", LOAD_AREA // 4096, "-d", 64, "-s", 4096, uri),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.1)
    load.kill()
    load.wait()


@pytest.mark.parametrize("hang_up", [_queue_and_vanish, _bench_and_kill])
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "tiny", "ack-origin"])
def test_server_and_data_survive(pair, settings, hang_up):
    """The server goes on or restarts on the same pair, keeps what was flushed, and ends at SIGTERM."""
    pair.make_origin(16 * MIB)
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        handle.pwrite(MARKER, MARKER_OFFSET)
    for _ in range(3):
        server = pair.start(**settings)
        for _ in range(3):
            if server.running:
                hang_up(server.uri)
        if server.running:
            server.terminate()
            server.wait()
        if not server.aborted_at_hang_up():
            server.assert_clean(HANG_UP_ERRORS)
        pair.check()
        with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
            assert handle.pread(len(MARKER), MARKER_OFFSET) == MARKER


def test_a_client_that_stays_is_served_on(pair):
    """Connections of other clients do not notice."""
    pair.make_origin(16 * MIB)
    server = pair.start()
    try:
        with clients.connection(server.uri) as handle:
            for number in range(5):
                _bench_and_kill(server.uri)
                handle.pwrite(MARKER, MARKER_OFFSET + number)
                assert handle.pread(len(MARKER), MARKER_OFFSET + number) == MARKER
            handle.flush()
    except nbd.Error:
        server.wait()
        assert server.aborted_at_hang_up(), server.describe()
        return
    server.stop()
    server.assert_clean(HANG_UP_ERRORS)

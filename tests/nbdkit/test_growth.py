# SPDX-License-Identifier: BSD-3-Clause
"""The server's threads, file descriptors and memory stay level over hundreds of connections."""

import os
import re
import time
from pathlib import Path

import nbd

from tests.support import clients

MIB = 1 << 20
WARM_UP_CONNECTIONS = 100
CONNECTIONS = 500
REQUESTS_IN_FLIGHT = 24
DESTAGE_DEPTH = 2

# A thread state that is pinned and never released costs about 65 KiB a connection, hence 32 MiB here. What a
# server gains after the warm-up without any leak is malloc's to keep, a few hundred KiB.
MEMORY_ALLOWANCE = 6 * MIB


def _connect_and_work(uri, number):
    """More requests at once than nbdkit has threads a connection, so that every thread serves some."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    data = bytes([number % 255 + 1]) * 4096
    for place in range(REQUESTS_IN_FLIGHT):
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), place * 8192, lambda error: 1)
    while handle.aio_in_flight():
        handle.poll(-1)
    buffers = [nbd.Buffer(4096) for _ in range(REQUESTS_IN_FLIGHT)]
    for place, buffer in enumerate(buffers):
        handle.aio_pread(buffer, place * 8192, lambda error: 1)
    while handle.aio_in_flight():
        handle.poll(-1)
    assert all(buffer.to_bytearray() == data for buffer in buffers)
    handle.shutdown()


def _usage(pid):
    """Threads, file descriptors and resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
    return threads, len(os.listdir(f"/proc/{pid}/fd")), resident


def _settled_usage(pid):
    """The usage when the threads of closed connections are gone: when it has stopped falling."""
    usage = _usage(pid)
    while True:
        time.sleep(0.5)
        previous, usage = usage, _usage(pid)
        if usage[:2] >= previous[:2]:
            return usage


def _assert_level(before, after):
    """Of threads, only those that write to the origin may have come since: they start when first needed."""
    growth = after[2] - before[2]
    print(f"{before[0]} to {after[0]} threads, {before[1]} descriptors, {before[2] >> 10} + {growth >> 10} KiB")
    assert after[0] <= before[0] + DESTAGE_DEPTH
    assert after[1] == before[1]
    assert growth < MEMORY_ALLOWANCE


def test_500_connections(pair):
    pair.make_origin(4 * MIB)
    with pair.serve(ring_size="1M", log_size="16M", destage_depth=DESTAGE_DEPTH) as server:
        for number in range(WARM_UP_CONNECTIONS):
            _connect_and_work(server.uri, number)
        before = _settled_usage(server.pid)
        for number in range(CONNECTIONS):
            _connect_and_work(server.uri, number)
        _assert_level(before, _settled_usage(server.pid))


def test_connections_that_only_open_and_close(pair):
    """As monitoring does: no request at all, and a client that hangs up without a goodbye."""
    pair.make_origin(MIB)
    with pair.serve(ring_size="1M", log_size="16M", destage_depth=DESTAGE_DEPTH) as server:
        clients.nbdinfo(server.uri)
        before = _settled_usage(server.pid)
        for _ in range(200):
            handle = nbd.NBD()
            handle.connect_uri(server.uri)
            del handle
        _assert_level(before, _settled_usage(server.pid))

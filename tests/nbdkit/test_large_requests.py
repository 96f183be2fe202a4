# SPDX-License-Identifier: BSD-3-Clause
"""The largest requests that the protocol and the block size hint allow."""

import random

import pytest

from tests.support import clients

MIB = 1 << 20
GIB = 1 << 30
LARGEST_COUNT = (1 << 32) - 4096


def test_32_mib_requests(pair):
    size = 70 * MIB + 512
    source = random.Random(5)
    first, second = source.randbytes(32 * MIB), source.randbytes(32 * MIB)
    pair.make_origin(size)
    with pair.serve(log_size="256M") as server, clients.connections(server.uri, 2) as handles:
        handles[0].pwrite(first, 0)
        handles[1].pwrite(second, 36 * MIB + 512 + 1)
        handles[0].flush()
        assert handles[1].pread(32 * MIB, 0) == first
        assert handles[0].pread(32 * MIB, 36 * MIB + 513) == second
    with pair.serve(log_size="256M", on_exit="destage") as server, clients.connection(server.uri) as handle:
        assert handle.pread(32 * MIB, 0) == first
        assert handle.pread(32 * MIB, 36 * MIB + 513) == second
    content = pair.origin.read_bytes()
    assert content[: 32 * MIB] == first
    assert content[36 * MIB + 513 : 68 * MIB + 513] == second


@pytest.mark.parametrize("command", ["trim", "zero"])
@pytest.mark.parametrize("offset", [GIB, GIB + 4095], ids=["aligned", "odd"])
def test_almost_4_gib_at_once(pair, command, offset):
    """Zeroes exactly the range, in no time and without a page of log for each block of it."""
    size = 6 * GIB
    end = offset + LARGEST_COUNT
    pair.make_origin(size)
    with open(pair.origin, "r+b") as origin:
        for place in (offset - 5000, 3 * GIB, end - 5000):
            origin.seek(place)
            origin.write(b"\xee" * 10000)

    def check(handle):
        assert handle.pread(10000, offset - 5000) == b"\xee" * 5000 + bytes(5000)
        assert handle.pread(10000, 2 * GIB + 77) == bytes(10000)
        assert handle.pread(20000, 3 * GIB - 5000) == bytes(20000)
        assert handle.pread(10000, end - 5000) == bytes(5000) + b"\xee" * 5000

    with pair.serve() as server, clients.connection(server.uri) as handle:
        handle.pwrite(b"\xdd" * 10000, 2 * GIB + 77)
        getattr(handle, command)(LARGEST_COUNT, offset)
        check(handle)
    with pair.serve(on_exit="destage") as server, clients.connection(server.uri) as handle:
        check(handle)
        handle.pwrite(b"\xcc" * 8192, 4 * GIB)
    with pair.serve() as server, clients.connection(server.uri) as handle:
        check(handle)
        assert handle.pread(16384, 4 * GIB - 4096) == bytes(4096) + b"\xcc" * 8192 + bytes(4096)
    assert pair.origin.stat().st_blocks * 512 < 2 * MIB, "the origin lost its holes"

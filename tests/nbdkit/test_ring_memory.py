# SPDX-License-Identifier: BSD-3-Clause
"""`ring-size=auto` in real servers: memory is taken as the ring is used, and many servers fit one machine."""

import re
import time
from contextlib import ExitStack

from tests.nbdkit.test_memory_given_back import resident_bytes
from tests.support import clients
from tests.support.control import ask, wbcache
from tests.support.nbdkit_server import CachePair
from wbcache_core.memory.ring_size import LEAST_BYTES
from wbcache_core.units import MIB

SERVERS = 8
SLACK = 40 * MIB
"""Buffers of requests, threads and the map."""
PATIENCE_S = 20


def ring_memory(control):
    return ask(control, "status")["bytes"]["ring_memory"]


def wait_for_ring_memory(control, byte_count):
    """What the ring has, when that is so much, or after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := ring_memory(control)) < byte_count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_memory_is_taken_as_the_ring_is_used(pair, folder):
    pair.make_origin(256 * MIB)
    control = folder / "c"
    with pair.serve(control=control, log_size="256M", destage_delay="1h") as server:
        with clients.connection(server.uri) as handle:
            handle.flush()
            before = resident_bytes(server.pid)
            size = ask(control, "status")["bytes"]["ring"]
            assert ring_memory(control) == 0
            assert LEAST_BYTES <= size <= 256 * MIB, "this machine is too small for this test"
            for offset in range(0, 48 * MIB, MIB):
                handle.pwrite(offset.to_bytes(8, "little") * (MIB // 8), offset)
            handle.flush()
            found = wait_for_ring_memory(control, 48 * MIB)
            assert found >= 48 * MIB
            taken = resident_bytes(server.pid) - before
            assert taken <= ring_memory(control) + SLACK
            assert ring_memory(control) <= min(size, 48 * MIB + 48 * MIB)
            assert re.search(r"ring +[0-9.]+ MiB of memory; it keeps up to", wbcache("status", control)[1])
            for offset in range(0, 48 * MIB, MIB):
                assert handle.pread(MIB, offset) == offset.to_bytes(8, "little") * (MIB // 8)


def test_a_ring_of_auto_commits_like_the_least_one(pair, folder):
    """However large the ring, a flush has to wait for 64 MiB at most: here nothing but the limit makes it commit."""
    pair.make_origin(256 * MIB)
    control = folder / "c"
    with pair.serve(control=control, ring_size="auto", log_size="1G", commit_interval="1h") as server:
        with clients.connection(server.uri) as handle:
            for offset in range(0, 256 * MIB, MIB):
                handle.pwrite(b"w" * MIB, offset)
                assert ask(control, "status")["bytes"]["volatile"] <= LEAST_BYTES


def test_many_idle_servers_take_no_memory_for_their_rings(folder):
    """And those that were written to a little take little."""
    with ExitStack() as stack:
        controls = []
        for number in range(SERVERS):
            place = folder / str(number)
            place.mkdir()
            pair = CachePair(place)
            pair.make_origin(8 * MIB)
            control = place / "c"
            server = stack.enter_context(pair.serve(control=control, log_size="8M"))
            handle = stack.enter_context(clients.connection(server.uri))
            handle.flush()
            controls.append((control, handle))
        assert sum(ring_memory(control) for control, _ in controls) == 0
        for control, handle in controls:
            handle.pwrite(b"w" * MIB, 0)
            handle.flush()
            assert MIB <= wait_for_ring_memory(control, MIB) < 6 * MIB

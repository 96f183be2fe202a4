# SPDX-License-Identifier: BSD-3-Clause
"""SIGTERM ends the server within seconds whatever it is doing, and what was accepted is still there."""

import contextlib
import random
import signal
import subprocess
import time

import pytest

from tests.support import clients, mounts
from tests.support.nbdkit_server import HANG_UP_ERRORS, NbdkitServer
from tests.support.stamped_blocks import blocks_of, check_after_crash, read_sequences
from tests.support.stamped_client import StampedClient

MIB = 1 << 20
PAGES = 4000
SMALL = {"ring_size": "1M", "log_size": "16M"}
TINY = {"ring_size": "1M", "log_size": "4M"}

# nbdkit itself waits up to 5 s for the threads of its connections.
LIMIT_S = 10
IDLE_LIMIT_S = 5

# The origin's writes take a second each, one after the other: FUSE lets only one at a time into a file. Those
# under way are waited for; the batch they belong to would take minutes.
SLOW_LIMIT_S = 10
SLOW = {**TINY, "destage_depth": "2"}


@contextlib.contextmanager
def slow_origin(pair, folder, delay):
    """Inside, each write to the pair's origin takes `delay`; outside it is an ordinary file again."""
    image = pair.make_origin(PAGES * 4096)
    backing = NbdkitServer(folder, ["--filter=delay", "file", image, f"wdelay={delay}"])
    try:
        with mounts.fuse_file(backing.uri, folder, "origin") as path:
            pair.origin = path
            yield
    finally:
        pair.origin = image
        backing.destroy()


def write_until_stopped(server):
    """Sixteen connections write for three seconds; SIGTERM; returns all their writes."""
    arguments = {"seed": 1, "first_sequence": 1 << 20, "client": 0, "client_count": 1, "pages": PAGES}
    load = StampedClient(server.uri, threads=16, flush_share=0, **arguments)
    try:
        load.wait_until_writing()
        time.sleep(3)
        server.stop(SLOW_LIMIT_S)
        writes, _ = load.finish()
    finally:
        load.destroy()
    return writes


@pytest.mark.parametrize("connected", [False, True], ids=["alone", "connected"])
def test_idle(pair, connected):
    pair.make_origin(MIB)
    with pair.serve() as server, contextlib.ExitStack() as stack:
        clients.nbdinfo(server.uri)
        if connected:
            handle = stack.enter_context(clients.connection(server.uri))
            handle.pwrite(b"x", 0)
        assert server.stop() < IDLE_LIMIT_S


@pytest.mark.parametrize("settings", [{}, SMALL, {**SMALL, "compress": "zstd"}], ids=["default", "small", "zstd"])
def test_under_load_at_depth_64(pair, settings):
    pair.make_origin(64 * MIB)
    with pair.serve(tolerate=HANG_UP_ERRORS, **settings) as server:
        load = clients.start(
            *("qemu-img", "bench", "-f", "raw", "-w", "-c", 10**7, "-d", 64, "-s", 4096, "-S", 12288, server.uri),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(1)
            assert load.poll() is None, "the load ended before SIGTERM"
            server.stop(LIMIT_S)
        finally:
            load.kill()
            load.wait()
    with pair.serve(**settings) as server:
        clients.nbdinfo(server.uri)


def test_while_starting(pair):
    """SIGTERM before nbdkit has its handler is an ordinary death; later it is a clean end."""
    pair.make_origin(8 * MIB)
    choose = random.Random(8)
    data = choose.randbytes(4 * MIB)
    with pair.serve(**SMALL) as server, clients.connection(server.uri) as handle:
        handle.pwrite(data, 0)
        handle.flush()
        server.kill()
    for _ in range(8):
        server = pair.start(wait=False, **SMALL)
        time.sleep(choose.uniform(0, 0.4))
        server.terminate()
        server.wait(LIMIT_S)
        assert server.status in (0, -signal.SIGTERM), server.describe()
    with pair.serve(**SMALL) as server, clients.connection(server.uri) as handle:
        assert handle.pread(4 * MIB, 0) == data


@pytest.mark.parametrize("settings", [SLOW, {**SLOW, "ack": "log"}], ids=["ack-ram", "ack-log"])
def test_with_a_full_log_over_a_slow_origin(pair, folder, settings):
    """Writers wait for log space, and the origin takes a second a write: far more than a batch is outstanding."""
    noise = ["cannot be marked", *HANG_UP_ERRORS]
    with slow_origin(pair, folder, "1000ms"), pair.serve(tolerate=noise, **settings) as server:
        writes = write_until_stopped(server)
    assert sum(write.done_ns is None for write in writes) > 8, "the writers were not blocked"
    blocks = blocks_of(PAGES)
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        found = read_sequences(handle, blocks)
    check_after_crash([0] * len(blocks), writes, found, acknowledged_is_durable=True)


def test_a_second_sigterm_cancels_the_drain(pair, folder):
    """on-exit=destage has minutes of writes to do; the data stays in the log when it is told not to."""
    with slow_origin(pair, folder, "500ms"):
        # FUSE carries out one write to a file at a time, and the stop waits for all that are under way.
        settings = {**SMALL, "destage_delay": "1h", "low_watermark": "80", "high_watermark": "95", "destage_depth": "2"}
        cancelled = ["the origin is not complete", "cannot be marked"]
        with pair.serve(on_exit="destage", tolerate=cancelled, **settings) as server:
            with clients.connection(server.uri) as handle:
                for page in range(0, 2000, 2):
                    handle.pwrite(page.to_bytes(4, "little") * 1024, page * 4096)
            server.terminate()
            time.sleep(2)
            assert server.running, "the drain was over before it could be cancelled"
            server.stop(LIMIT_S)
            assert "the origin is not complete" in server.stderr_text()
    with pair.serve(**settings) as server, clients.connection(server.uri) as handle:
        for page in range(0, 2000, 2):
            assert handle.pread(4096, page * 4096) == page.to_bytes(4, "little") * 1024

# SPDX-License-Identifier: BSD-3-Clause
"""on-exit=destage with an NBD origin that takes its time, or never answers."""

import os
import signal
import time

from tests.support import clients
from tests.support.nbdkit_server import HANG_UP_ERRORS
from tests.support.volatile_disk import VolatileDisk

MIB = 1 << 20
PAGE = 4096
SETTINGS = {"ring_size": "1M", "log_size": "8M", "on_exit": "destage", "destage_delay": "1h", "low_watermark": "80",
            "high_watermark": "90"}  # fmt: skip
NOISE = ["destaging", "the origin is not complete", *HANG_UP_ERRORS]


def write(server):
    """Not yet destaged when this returns."""
    with clients.connection(server.uri) as handle:
        handle.pwrite(b"w" * PAGE, 0)
        handle.flush()


def test_a_flush_that_takes_longer_than_a_stop_waits_for_others(pair, folder):
    disk = VolatileDisk(folder, "origin", MIB)
    try:
        disk.start(flush_seconds=7)
        pair.origin = disk.uri
        with pair.serve(check=False, tolerate=HANG_UP_ERRORS, **SETTINGS) as server:
            write(server)
            server.stop()
            assert "not complete" not in server.stderr_text()
        assert disk.durable.read_bytes()[:PAGE] == b"w" * PAGE
    finally:
        disk.destroy()


def test_a_second_sigterm_ends_a_drain_that_gets_no_answer(pair, folder):
    disk = VolatileDisk(folder, "origin", MIB)
    try:
        disk.start()
        pair.origin = disk.uri
        with pair.serve(check=False, tolerate=NOISE, **SETTINGS) as server:
            write(server)
            os.kill(disk.server.pid, signal.SIGSTOP)
            server.terminate()
            time.sleep(1)
            assert server.running
            server.terminate()
            assert server.wait() < 12
            assert "the origin is not complete" in server.stderr_text()
    finally:
        disk.destroy()

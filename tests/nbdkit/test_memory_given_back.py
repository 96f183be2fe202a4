# SPDX-License-Identifier: BSD-3-Clause
"""What a real server takes for a flood of trims, and that it gives it back when they are on the origin."""

import time
from pathlib import Path

from tests.support import clients
from tests.support.control import ask

MIB = 1 << 20
TRIMS = 120_000
IN_FLIGHT = 64
# Each covers parts of two regions of the map, no two the same, and takes some 400 bytes: 46 MiB, and a GiB were it
# entries of single blocks.
STRIDE, OFFSET, LENGTH = 4 * MIB, MIB, 2 * MIB
TAKEN = 100 * MIB
# The interpreter cannot give back a MiB in which something is in use: 24 to 28 MiB, as measured, and not more of a
# larger flood. Without a sweep it would be all of it.
LEFT = 0.75
PATIENCE_S = 40


def resident_bytes(pid):
    """Resident memory that is not of a file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024


def trim_much(handle):
    for number in range(TRIMS):
        handle.aio_trim(LENGTH, number * STRIDE + OFFSET, lambda error: 1)
        while handle.aio_in_flight() >= IN_FLIGHT:
            handle.poll(-1)
    while handle.aio_in_flight():
        handle.poll(-1)


def wait_until(condition):
    """Whether it came true in time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def test_memory_of_trims_comes_and_goes(pair, folder):
    pair.make_origin(TRIMS * STRIDE)
    control = folder / "c"
    settings = {"low_watermark": "80", "high_watermark": "90", "destage_delay": "1h"}
    with pair.serve(control=control, log_size="256M", ring_size="4M", **settings) as server:
        with clients.connection(server.uri) as handle:
            # What the first requests take besides, and the first batch.
            handle.pwrite(b"w" * MIB, 0)
            handle.trim(LENGTH, OFFSET)
            handle.flush()
            assert wait_until(lambda: ask(control, "status")["bytes"]["dirty"] == 0)
            time.sleep(0.5)
            before = resident_bytes(server.pid)
            trim_much(handle)
            handle.flush()
            taken = resident_bytes(server.pid) - before
            assert ask(control, "status")["bytes"]["dirty"] > 0, "it was destaged meanwhile; nothing was measured"
            assert taken < TAKEN, f"{taken / MIB:.1f} MiB"
            assert wait_until(lambda: ask(control, "status")["bytes"]["dirty"] == 0)
            found = []
            is_given_back = wait_until(
                lambda: found.append(resident_bytes(server.pid) - before) or found[-1] < LEFT * taken
            )
            assert is_given_back, f"{taken / MIB:.1f} MiB were taken, and {found[-1] / MIB:.1f} MiB are left"
            print(f"{taken / MIB:.1f} MiB were taken, and {found[-1] / MIB:.1f} MiB are left")
            # A trim that was forgotten still reads as zeros.
            assert handle.pread(4096, 7 * STRIDE + OFFSET) == bytes(4096)

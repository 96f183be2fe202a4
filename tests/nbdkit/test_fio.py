# SPDX-License-Identifier: BSD-3-Clause
"""fio's nbd engine with its own verification, at depth 32."""

import subprocess
import time

import pytest

from tests.support import clients

MIB = 1 << 20
SETTINGS = {
    "default": {},
    "small": {"ring_size": "1M", "log_size": "16M"},
    "zstd": {"ring_size": "1M", "log_size": "16M", "compress": "zstd"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_random_reads_and_writes_verify(pair, folder, settings):
    pair.make_origin(40 * MIB)
    with pair.serve(**settings) as server:
        clients.fio(server.uri, folder, "rw=randrw", "bsrange=512-64k", "size=40m", "verify=crc32c", "verify_fatal=1")


def test_random_trims(pair, folder):
    size = 32 * MIB
    pair.make_origin(size, b"\xee" * size)
    with pair.serve(on_exit="destage") as server:
        clients.fio(server.uri, folder, "rw=randtrim", "bs=4k", f"size={size}")
        clients.qemu_io(server.uri, f"read -P 0 0 {size}")
    assert pair.origin.read_bytes() == bytes(size)


def test_written_data_verifies_after_a_restart(pair, folder):
    job = ["rw=randwrite", "bs=4k", "size=24m", "verify=crc32c", "verify_fatal=1", "randseed=77"]
    pair.make_origin(24 * MIB)
    with pair.serve() as server:
        clients.fio(server.uri, folder, *job, "do_verify=0")
    with pair.serve() as server:
        clients.fio(server.uri, folder, *job, "verify_only=1")


def _kill_under_load(server, folder, seconds):
    """kill -9 while another job writes at random to the upper half of the volume."""
    options = ["rw=randwrite", "bs=4k", "offset=16m", "size=16m", "time_based=1", "runtime=60"]
    load = clients.start(
        *clients.fio_command(server.uri, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        time.sleep(seconds)
        assert load.poll() is None, "the load ended before the kill"
        server.kill()
    finally:
        load.kill()
        load.wait()


def test_written_data_verifies_after_kills(pair, folder):
    """Three rounds on one pair: fio writes, a flush, kill -9 under load in another area, fio verifies."""
    pair.make_origin(32 * MIB)
    small = {"ring_size": "1M", "log_size": "16M"}
    for seed in (1, 2, 3):
        job = ["rw=randwrite", "bs=4k", "size=8m", "verify=crc32c", "verify_fatal=1", f"randseed={seed}"]
        with pair.serve(**small) as server:
            clients.fio(server.uri, folder, *job, "do_verify=0")
            with clients.connection(server.uri) as handle:
                handle.flush()
            _kill_under_load(server, folder, 0.3 + 0.3 * seed)
        with pair.serve(**small) as server:
            clients.fio(server.uri, folder, *job, "verify_only=1")

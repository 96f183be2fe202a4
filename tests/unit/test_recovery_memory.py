# SPDX-License-Identifier: BSD-3-Clause
"""Recovery takes little more memory than the server keeps: who has a log of 64 GiB must be able to start."""

import tracemalloc

import pytest

from benchmarks import synthetic_log
from wbcache_core.device.file_device import FileDevice
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.log.superblocks import newest
from wbcache_core.pairing import pairing
from wbcache_core.units import MIB

# Of this the sort of the blocks, up to a limit, takes some 150 a page; all descriptors would be 400 to 900.
MOST_BYTES_PER_PAGE = 250


@pytest.mark.parametrize(("pages_each", "size"), [(1, 64 * MIB), (246, 64 * MIB)])
def test_memory_for_each_page_of_the_log(tmp_path, pages_each, size):
    origin = tmp_path / "origin"
    with open(origin, "wb") as file:
        file.truncate(256 * MIB)
    device = FileDevice(str(synthetic_log.make(tmp_path / "log", origin, size, pages_each)), "log")
    superblock = newest(pairing.read_log(device))
    reader = LogReader(device, superblock.data_pages, superblock.uuid)
    recover(device, reader, superblock)
    tracemalloc.start()
    try:
        recovered = recover(device, reader, superblock)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    device.close()
    assert recovered.page_count > 7000
    assert peak < MOST_BYTES_PER_PAGE * recovered.page_count
    assert kept < 90 * recovered.page_count

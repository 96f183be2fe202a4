# SPDX-License-Identifier: BSD-3-Clause
"""Recovery takes little more memory than the server keeps: who has a log of 64 GiB must be able to start."""

import tracemalloc

import pytest

from benchmarks import synthetic_log
from tests.support.local_pair import QUIET, LocalPair
from wbcache_core.device.file_device import FileDevice
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.log.superblocks import newest
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.pairing import pairing
from wbcache_core.units import MIB

# Of this the sort of the blocks, up to a limit, takes some 150 a page; all descriptors would be 400 to 900.
MOST_BYTES_PER_PAGE = 250
TRIMS = 12_000
# What a server keeps of one that covers parts of two regions, map and records together; see docs/performance.md.
MOST_BYTES_PER_TRIM = 500


@pytest.mark.parametrize(("pages_each", "size"), [(1, 64 * MIB), (246, 64 * MIB)])
def test_memory_for_each_page_of_the_log(tmp_path, pages_each, size):
    origin = tmp_path / "origin"
    with open(origin, "wb") as file:
        file.truncate(256 * MIB)
    kept, peak, recovered = recovered_memory(synthetic_log.make(tmp_path / "log", origin, size, pages_each))
    assert recovered.page_count > 7000
    assert peak < MOST_BYTES_PER_PAGE * recovered.page_count
    assert kept < 90 * recovered.page_count


def recovered_memory(log):
    """What recovery kept, the most it took, and what it found."""
    device = FileDevice(str(log), "log")
    try:
        superblock = newest(pairing.read_log(device))
        reader = LogReader(device, superblock.data_pages, superblock.uuid)
        recover(device, reader, superblock)
        tracemalloc.start()
        try:
            recovered = recover(device, reader, superblock)
            return *tracemalloc.get_traced_memory(), recovered
        finally:
            tracemalloc.stop()
    finally:
        device.close()


def test_memory_for_each_trim_in_the_log_and_in_a_snapshot_of_it(tmp_path):
    pair = LocalPair(tmp_path)
    pair.make_origin(TRIMS * 4 * MIB)
    cache = pair.start(**{**QUIET, "log_size": "64M", "commit_size": "4M", "ring_size": "8M"})
    for number in range(TRIMS):
        cache.volume.trim(2 * MIB, number * 4 * MIB + MIB)
    cache.volume.flush()
    dirty = cache._line.committed - cache._line.destaged
    pair.abandon()
    kept, peak, recovered = recovered_memory(pair.log)
    trims = len(recovered.locations) / 2
    assert trims > 0.9 * TRIMS and dirty > TRIMS // 4 - 10
    assert kept < MOST_BYTES_PER_TRIM * trims
    assert peak < 1.5 * MOST_BYTES_PER_TRIM * trims
    tracemalloc.start()
    try:
        locations = LocationMap()
        recovered.covered.records.between(recovered.first.descriptor.first_lsn, recovered.head).replay(locations)
        snapshot, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(locations) == len(recovered.locations)
    assert snapshot < MOST_BYTES_PER_TRIM * trims

#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Prints the bytes that map, records and segment table take for so many pages of log that are full of trims.

    python3 -m benchmarks.trims_in_memory KIND PAGES
"""

import os
import sys
from itertools import islice

from benchmarks import processes
from wbcache_core.format.segment import KIND_SHIFT, RAW, TRIM
from wbcache_core.memory.block_map import CLEAR_FLAGS, REGION_BLOCKS, LocationMap
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE
from wbcache_core.memory.record_index import RecordIndex
from wbcache_core.memory.segment_table import SegmentTable

_VOLUME_BLOCKS = 1 << 34


def _one_region(blocks):
    """Each in a region of its own."""
    return ((number * REGION_BLOCKS + (REGION_BLOCKS - blocks) // 2, blocks) for number in range(1 << 30))


def _several_regions(whole):
    """Each with parts of two regions of its own, and so many whole ones between."""
    length = (1 + whole) * REGION_BLOCKS
    return ((number * (length + REGION_BLOCKS) + REGION_BLOCKS // 2, length) for number in range(1 << 30))


def _neighbours():
    """A hundred to a region, which they leave in pieces."""
    return ((number * 5, 4) for number in range(1 << 30))


KINDS = {
    "4 KiB": lambda: _one_region(1),
    "16 KiB": lambda: _one_region(4),
    "512 KiB": lambda: _one_region(128),
    "just under 2 MiB": lambda: _one_region(511),
    "2 MiB across a border of regions": lambda: _several_regions(0),
    "4 MiB across two borders": lambda: _several_regions(1),
    "16 KiB every 20 KiB": _neighbours,
}


def main(kind, pages):
    """As the server keeps them: four trims to a segment of one page, as many as fit."""
    locations, records, table = LocationMap(), RecordIndex(_VOLUME_BLOCKS), SegmentTable()
    before = processes.anonymous_bytes(os.getpid())
    trims = KINDS[kind]()
    for lsn in range(1, pages + 1):
        ranges = list(islice(trims, MAX_RANGES_PER_PAGE))
        for block, count in ranges:
            locations.set_all(block, count, CLEAR_FLAGS[TRIM] | lsn)
        records.append(lsn, 0, [TRIM << KIND_SHIFT | block for block, _ in ranges], [count for _, count in ranges])
        table.append(lsn, lsn, RAW, ())
    print(processes.anonymous_bytes(os.getpid()) - before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

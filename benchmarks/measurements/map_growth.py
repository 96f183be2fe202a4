# SPDX-License-Identifier: BSD-3-Clause
"""Writes, reads and recovery with up to ten million blocks in the map."""

from benchmarks.grown_log import measure_sizes
from wbcache_core.units import MIB, PAGE_BYTES

TITLE = "Growth with the number of blocks in the map"


def measure(bench):
    counts = (10_000, 100_000) if bench.quick else (100_000, 1_000_000, 10_000_000)
    # Four fifths of the log are full (grown_log).
    sizes = {f"{count:,} blocks": (count * 5 // 4 * PAGE_BYTES + 64 * MIB, count) for count in counts}
    return measure_sizes(bench, TITLE, sizes)

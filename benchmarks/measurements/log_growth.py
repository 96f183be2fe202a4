# SPDX-License-Identifier: BSD-3-Clause
"""Writes, reads and recovery on dirty logs of 1, 4 and 16 GiB."""

from benchmarks.grown_log import measure_sizes
from wbcache_core.units import GIB, MIB

TITLE = "Growth with the size of the log"


def measure(bench):
    sizes = {f"{size} GiB": size * GIB for size in (1, 4, 16)}
    if bench.quick:
        sizes = {f"{size} MiB": size * MIB for size in (64, 256)}
    return measure_sizes(bench, TITLE, {name: (size, None) for name, size in sizes.items()})

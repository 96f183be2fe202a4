# SPDX-License-Identifier: BSD-3-Clause
"""One module a measurement: TITLE, and measure(bench), which returns an Outcome."""

from benchmarks.measurements import (
    absorbed_writes,
    compression,
    draining,
    durability,
    flushed_writes,
    fragmented_copy,
    idle,
    log_growth,
    many_servers,
    map_growth,
    memory,
    mixed_load,
    opening_snapshots,
    random_reads,
    recovery_time,
    sequential,
    slow_origin,
    snapshot_readers,
    sustained_writes,
    thread_count,
    trim_memory,
)

MEASUREMENTS = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module
    for module in (
        mixed_load,
        absorbed_writes,
        sustained_writes,
        random_reads,
        sequential,
        flushed_writes,
        slow_origin,
        draining,
        memory,
        trim_memory,
        many_servers,
        recovery_time,
        compression,
        idle,
        log_growth,
        map_growth,
        opening_snapshots,
        snapshot_readers,
        fragmented_copy,
        thread_count,
        durability,
    )
}

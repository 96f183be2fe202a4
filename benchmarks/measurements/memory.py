# SPDX-License-Identifier: BSD-3-Clause
"""Memory that each further GiB of dirty blocks takes."""

from benchmarks import images, processes, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target, in_turn
from wbcache_core.units import GIB, MIB

TITLE = "Memory for dirty blocks"

_RING = 16 * MIB


def measure(bench):
    outcome = Outcome(unit="MiB per GiB")
    # The first quarter also brings what does not depend on dirty blocks: buffers of threads, pools of the allocator.
    total = bench.pick(4 * GIB, GIB)
    first, rest = total // 4, total - total // 4
    log_size = total * 5 // 4
    origin = images.sparse(bench.folder / "origin", 10 * log_size)
    log = bench.folder / "log"

    def grown(mode, times, block):
        with servers.wbcache(
            bench, origin, log, fresh=True, log_size=log_size, ring_size=_RING, **servers.NOT_DESTAGED
        ) as server:
            fio(bench, server, mode, size=first * times, block=block, depth=16, amount=first)
            before = processes.anonymous_bytes(server.pid)
            options = (f"--offset={first * times}",)
            fio(bench, server, mode, size=rest * times, block=block, depth=16, amount=rest, options=options)
            # At once: after a second without a write destaging begins and takes memory for its batch.
            after = processes.anonymous_bytes(server.pid)
        return (after - before) / MIB / (rest / GIB)

    found = in_turn(
        bench,
        {
            "random over ten times as much": lambda: grown("randwrite", 10, 4096),
            "8 KiB writes, random over ten times as much": lambda: grown("randwrite", 10, 8192),
            "dense": lambda: grown("write", 1, 65536),
        },
        rounds=bench.pick(3, 1),
    )
    outcome.values = dict(found)
    for name, values in found.items():
        limit = Target(5 if name == "dense" else 12, at_least=False)
        outcome.add(f"{TITLE}: {name}", Spread.of(values), "MiB per GiB", limit)
    return outcome

# SPDX-License-Identifier: BSD-3-Clause
"""Memory that each further GiB of dirty blocks takes."""

from benchmarks import images, processes, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target, in_turn
from wbcache_core.units import GIB, MIB

TITLE = "Memory for dirty blocks"

_LOG = 1280 * MIB
_RING = 16 * MIB


def measure(bench):
    outcome = Outcome(unit="MiB per GiB")
    origin = images.sparse(bench.folder / "origin", 10 * _LOG)
    log = bench.folder / "log"
    first, rest = bench.pick((256 * MIB, 768 * MIB), (64 * MIB, 192 * MIB))

    def grown(mode, size, block):
        with servers.wbcache(
            bench, origin, log, fresh=True, log_size=_LOG, ring_size=_RING, **servers.NOT_DESTAGED
        ) as server:
            fio(bench, server, mode, size=first * size // GIB, block=block, depth=16, amount=first)
            before = processes.anonymous_bytes(server.pid)
            options = (f"--offset={first * size // GIB}",)
            fio(bench, server, mode, size=rest * size // GIB, block=block, depth=16, amount=rest, options=options)
            # At once: after a second without a write destaging begins and takes memory for its batch.
            after = processes.anonymous_bytes(server.pid)
        return (after - before) / MIB / (rest / GIB)

    found = in_turn(
        bench,
        {
            "random over ten times as much": lambda: grown("randwrite", 10 * GIB, 4096),
            "8 KiB writes, random over ten times as much": lambda: grown("randwrite", 10 * GIB, 8192),
            "dense": lambda: grown("write", GIB, 65536),
        },
        rounds=bench.pick(3, 1),
    )
    outcome.values = dict(found)
    for name, values in found.items():
        limit = Target(5 if name == "dense" else 12, at_least=False)
        outcome.add(f"{TITLE}: {name}", Spread.of(values), "MiB per GiB", limit)
    return outcome

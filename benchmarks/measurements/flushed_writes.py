# SPDX-License-Identifier: BSD-3-Clause
"""A 4 KiB write and a flush, again and again, by one client process and by 16."""

from benchmarks import images, servers
from benchmarks.loads import flushed_writes
from benchmarks.rounds import Outcome, Target, in_turn, rates, ratio
from wbcache_core.units import GIB, MIB

TITLE = "4 KiB write and flush"

_SIZE = 256 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    outcome = Outcome(unit="writes/s")
    for client_count, writes, limits in ((1, bench.pick(2500, 500), (1.2, 2)), (16, bench.pick(500, 80), (1.5, 2))):

        def turn(make, client_count=client_count, writes=writes):
            def run():
                with make() as server:
                    return flushed_writes(bench, server, client_count, writes, _SIZE)

            return run

        turns = {
            "wbcache": turn(lambda: servers.wbcache(bench, origin, log)),
            "file": turn(lambda: servers.file(bench, origin)),
            "cache filter": turn(lambda: servers.cache_filter(bench, origin)),
            "qemu-nbd": turn(lambda: servers.qemu_nbd(bench, origin)),
        }
        found = in_turn(bench, turns)
        who = "1 client" if client_count == 1 else f"{client_count} clients"
        outcome.values |= {f"{name}, {who}": values for name, values in rates(found).items()}
        for peer, limit in zip(("file", "cache filter"), limits, strict=True):
            outcome.add(f"{TITLE}, {who}: against {peer}", ratio(found, "wbcache", peer), target=Target(limit))
        outcome.add(f"{TITLE}, {who}: against qemu-nbd", ratio(found, "wbcache", "qemu-nbd"))
    return outcome

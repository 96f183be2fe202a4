# SPDX-License-Identifier: BSD-3-Clause
"""4 KiB random writes at depth 16 that the ring absorbs, against everything that could be served instead."""

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Target, cpu_rows, in_turn, rates, ratio
from wbcache_core.units import GIB, MIB

TITLE = "4 KiB random writes, depth 16, absorbed by the ring"

_SIZE = 512 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    large_log = images.sparse(bench.folder / "large-log", servers.ABSORBING_LOG_BYTES)
    seconds = bench.pick(4, 1)

    def load(server):
        return fio(bench, server, "randwrite", size=_SIZE, seconds=seconds, ramp_s=bench.pick(1, 0.5))

    def turn(make):
        def run():
            with make() as server:
                return load(server)

        return run

    turns = {
        "wbcache": turn(lambda: servers.wbcache(bench, origin, large_log, **servers.ABSORBING)),
        "null plugin, pinned": turn(lambda: servers.null(bench, _SIZE, pin=True)),
        "file": turn(lambda: servers.file(bench, origin)),
        "wbcache, ring of 64 MiB": turn(lambda: servers.wbcache(bench, origin, log, ring_size="64M")),
        "null plugin, not pinned": turn(lambda: servers.null(bench, _SIZE, pin=False)),
        "memory": turn(lambda: servers.memory(bench, _SIZE)),
        "cache filter": turn(lambda: servers.cache_filter(bench, origin)),
        "cow filter": turn(lambda: servers.cow_filter(bench, origin)),
        "qemu-nbd": turn(lambda: servers.qemu_nbd(bench, origin)),
    }
    found = in_turn(bench, turns)
    outcome = Outcome(values=rates(found), unit="requests/s")
    targets = {
        "null plugin, pinned": 0.75,
        "file": 0.7,
        "cache filter": 3,
        "null plugin, not pinned": 3,
    }
    for peer in turns:
        if peer != "wbcache":
            target = Target(targets[peer]) if peer in targets else None
            outcome.add(f"{TITLE}: against {peer}", ratio(found, "wbcache", peer), target=target)
    outcome.add(f"{TITLE}: null plugin, pinned, against file", ratio(found, "null plugin, pinned", "file"))
    cpu_rows(outcome, TITLE, found, ("wbcache", "wbcache, ring of 64 MiB", "null plugin, pinned", "file"))
    return outcome

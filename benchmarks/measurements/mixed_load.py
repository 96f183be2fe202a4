# SPDX-License-Identifier: BSD-3-Clause
"""One load after another on one server, destaging going on: random writes, reads of what was just written, both, and
writes with flushes."""

from benchmarks import images, servers
from benchmarks.loads import fio, flushed_writes
from benchmarks.rounds import Outcome, Target, in_turn, ratio
from wbcache_core.units import GIB, MIB

TITLE = "Loads after one another, 512 MiB, depth 16"

_SIZE = 512 * MIB
_LOADS = ("random writes", "random reads of what was written", "70/30 mixed", "write and flush", "the same, 16 clients")
_TARGETS = {
    ("random writes", "cache filter"): 2.5,
    ("random reads of what was written", "cache filter"): 1.2,
    ("random reads of what was written", "wbcache, nothing to destage"): 0.85,
    ("70/30 mixed", "cache filter"): 1.3,
    ("write and flush", "cache filter"): 1.5,
    ("write and flush", "file"): 1.2,
    ("the same, 16 clients", "cache filter"): 1.5,
    ("the same, 16 clients", "file"): 1.2,
}


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    # A log belongs to one origin.
    other, large_log = images.allocate(bench.folder / "other", _SIZE), bench.folder / "large-log"
    images.allocate(large_log, 4 * GIB, blank=True)
    seconds, writes, modes = bench.pick(4, 1), bench.pick(3200, 640), ("randwrite", "randread", "randrw")

    def loads(make):
        def turn():
            with make() as server:
                return (
                    *(fio(bench, server, mode, size=_SIZE, seconds=seconds) for mode in modes),
                    *(flushed_writes(bench, server, count, writes // count, _SIZE) for count in (1, 16)),
                )

        return turn

    found = in_turn(
        bench,
        {
            "wbcache": loads(lambda: servers.wbcache(bench, origin, log)),
            "cache filter": loads(lambda: servers.cache_filter(bench, origin)),
            "file": loads(lambda: servers.file(bench, origin)),
            "wbcache, ring of 64 MiB": loads(lambda: servers.wbcache(bench, origin, log, ring_size="64M")),
            "wbcache, nothing to destage": loads(lambda: servers.wbcache(bench, other, large_log, history="4G")),
            "null plugin, pinned": loads(lambda: servers.null(bench, _SIZE, pin=True)),
        },
    )
    outcome = Outcome(unit="requests/s")
    for number, load in enumerate(_LOADS):
        samples = {name: [turn[number] for turn in turns] for name, turns in found.items()}
        outcome.values |= {f"{name}: {load}": [one.rate for one in each] for name, each in samples.items()}
        for peer in found:
            if peer != "wbcache":
                limit = _TARGETS.get((load, peer))
                against = ratio(samples, "wbcache", peer)
                outcome.add(f"{load}: against {peer}", against, target=Target(limit) if limit else None)
    return outcome

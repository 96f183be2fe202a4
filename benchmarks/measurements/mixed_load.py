# SPDX-License-Identifier: BSD-3-Clause
"""One load after another on one server, destaging going on: random writes, reads of what was just written, both, and
writes with flushes."""

from benchmarks import images, servers
from benchmarks.loads import device, fio, flushed_writes, synced_writes
from benchmarks.rounds import Outcome, Spread, Target, in_turn, ratio
from wbcache_core.units import GIB, MIB

TITLE = "Loads after one another, 512 MiB, depth 16"

_SIZE = 512 * MIB
_LOADS = ("random writes", "random reads of what was written", "70/30 mixed", "write and flush", "the same, 16 clients")
_FLUSHES = _LOADS[3:]
_PROMISES = {
    "cache filter": "the filter loses everything since its last flush with the process",
    "file": "as wbcache; in any order between flushes",
    "null plugin, pinned": "nothing",
    "the disk itself": "nothing until a sync",
}
"""What is there after a crash. The server of wbcache may be killed without any loss; a power failure falls back to the
last flush, or a later moment."""
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

    def the_disk():
        return (
            *(device(bench, origin, mode, size=_SIZE, seconds=seconds) for mode in modes),
            *(synced_writes(bench, origin, count, seconds, _SIZE) for count in (1, 16)),
        )

    found = in_turn(
        bench,
        {
            "wbcache": loads(lambda: servers.wbcache(bench, origin, log)),
            "cache filter": loads(lambda: servers.cache_filter(bench, origin)),
            "file": loads(lambda: servers.file(bench, origin)),
            "wbcache, ring of 64 MiB": loads(lambda: servers.wbcache(bench, origin, log, ring_size="64M")),
            "wbcache, nothing to destage": loads(lambda: servers.wbcache(bench, other, large_log, history="4G")),
            "null plugin, pinned": loads(lambda: servers.null(bench, _SIZE, pin=True)),
            "the disk itself": the_disk,
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
                what = f"{load}: against {peer}" + (f" ({_PROMISES[peer]})" if peer in _PROMISES else "")
                outcome.add(what, against, target=Target(limit) if limit else None)
        if load in _FLUSHES:
            outcome.add(f"{load}: against two round trips of the null plugin and the disk", _limit(samples))
    return outcome


def _limit(samples):
    """Against what remains if the cache itself takes no time: a write and a flush that do nothing, then the disk."""
    rounds = zip(samples["wbcache"], samples["null plugin, pinned"], samples["the disk itself"], strict=True)
    return Spread.of([cache.rate * (1 / null.rate + 1 / disk.rate) for cache, null, disk in rounds])

# SPDX-License-Identifier: BSD-3-Clause
"""70 % reads and 30 % writes for a minute: several times what ring and log hold, destaging all the time."""

from benchmarks import images, servers
from benchmarks.loads import device, fio
from benchmarks.rounds import Outcome, Spread, Target, cpu_rows, in_turn, rates, ratio
from wbcache_core.units import GIB, MIB

TITLE = "70/30 mixed for a minute, 512 MiB, depth 16"

_SIZE = 512 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    seconds = bench.pick(60, 6)

    def turn(make):
        def run():
            with make() as server:
                fio(bench, server, "randwrite", size=_SIZE, seconds=bench.pick(4, 1))
                return fio(bench, server, "randrw", size=_SIZE, seconds=seconds)

        return run

    found = in_turn(
        bench,
        {
            "wbcache": turn(lambda: servers.wbcache(bench, origin, log)),
            "cache filter": turn(lambda: servers.cache_filter(bench, origin)),
            "the disk itself": lambda: device(bench, origin, "randrw", size=_SIZE, seconds=bench.pick(10, 3)),
        },
    )
    outcome = Outcome(values=rates(found), unit="requests/s")
    outcome.add(f"{TITLE}: against cache filter", ratio(found, "wbcache", "cache filter"), target=Target(1.3))
    outcome.add(f"{TITLE}: against the disk itself", ratio(found, "wbcache", "the disk itself"))
    limits = {"wbcache": Target(20, at_least=False)}
    for name, samples in found.items():
        tails = Spread.of([sample.high_us / sample.median_us for sample in samples])
        outcome.add(f"{TITLE}: reads, 99.9th percentile against the median, {name}", tails, target=limits.get(name))
    cpu_rows(outcome, TITLE, found, ("wbcache", "cache filter"))
    return outcome

# SPDX-License-Identifier: BSD-3-Clause
"""4 KiB random writes for a minute: far more than ring and log hold, commit and destaging run all the time."""

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target, cpu_rows, in_turn, rates, ratio
from wbcache_core.units import GIB, MIB

TITLE = "4 KiB random writes, depth 16, sustained"

_SIZE = GIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    other = images.allocate(bench.folder / "other", _SIZE)
    seconds, short = bench.pick(60, 8), bench.pick(10, 3)

    def cache():
        with servers.wbcache(bench, origin, log) as server:
            return fio(bench, server, "randwrite", size=_SIZE, seconds=seconds)

    def null():
        with servers.null(bench, _SIZE, pin=True) as server:
            return fio(bench, server, "randwrite", size=_SIZE, seconds=short, ramp_s=1)

    def file():
        with servers.file(bench, other) as server:
            return fio(bench, server, "randwrite", size=_SIZE, seconds=short, ramp_s=1)

    found = in_turn(bench, {"wbcache": cache, "null plugin, pinned": null, "file": file})
    outcome = Outcome(values=rates(found), unit="requests/s")
    against_null = ratio(found, "wbcache", "null plugin, pinned")
    outcome.add(f"{TITLE}: against null plugin, pinned", against_null, target=Target(0.45))
    outcome.add(f"{TITLE}: against file", ratio(found, "wbcache", "file"))
    limits = {"wbcache": Target(20, at_least=False)}
    for name, samples in found.items():
        tails = [sample.high_us / sample.median_us for sample in samples]
        what = f"{TITLE}: 99.9th percentile against the median, {name}"
        outcome.add(what, Spread.of(tails), target=limits.get(name))
    written = [sample.requests * sample.request_bytes / (64 * MIB) for sample in found["wbcache"]]
    outcome.add(f"{TITLE}: written, in units of 64 MiB", Spread.of(written), target=Target(10))
    cpu_rows(outcome, TITLE, found, ("wbcache",))
    return outcome

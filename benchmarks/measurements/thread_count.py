# SPDX-License-Identifier: BSD-3-Clause
"""How many nbdkit threads (-t) to recommend: writes and reads of the ring, sustained writes, reads of a slow origin."""

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, in_turn
from wbcache_core.units import GIB, MIB

TITLE = "nbdkit threads"

_SIZE = 256 * MIB
_COUNTS = (1, 2, 4, 8, 16, 32)
_KINDS = ("writes", "reads of the ring", "sustained writes", "reads of an origin with 5 ms a request")


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    seconds, sustained_seconds = bench.pick(2, 1), bench.pick(15, 2)

    def turn(count):
        def run():
            with servers.wbcache(bench, origin, log, threads=count, ring_size="1G", commit_size="512M") as server:
                write = fio(bench, server, "randwrite", size=_SIZE, seconds=seconds)
                read = fio(bench, server, "randread", size=_SIZE, seconds=seconds)
            with servers.wbcache(bench, origin, log, threads=count) as server:
                sustained = fio(bench, server, "randwrite", size=_SIZE, seconds=sustained_seconds)
            with servers.wbcache(bench, slow.uri, log, threads=count) as server:
                slow_read = fio(bench, server, "randread", size=_SIZE, seconds=seconds)
            return write, read, sustained, slow_read

        return run

    with servers.slow_disk(bench, _SIZE) as slow:
        found = in_turn(bench, {f"-t {count}": turn(count) for count in _COUNTS}, rounds=min(bench.rounds, 3))
    outcome = Outcome(unit="requests/s")
    for index, kind in enumerate(_KINDS):
        samples = {name: [each[index] for each in turns] for name, turns in found.items()}
        for name in samples:
            rates = [sample.rate for sample in samples[name]]
            outcome.values[f"{kind}, {name}"] = rates
            outcome.add(f"{TITLE}, {name}: {kind}", Spread.of(rates), "requests/s")
    return outcome

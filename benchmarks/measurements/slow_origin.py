# SPDX-License-Identifier: BSD-3-Clause
"""An origin that takes 5 ms for each request: a burst that fits the log, and random writes for ever."""

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Target, in_turn, rates, ratio
from wbcache_core.units import GIB, MIB

TITLE = "Origin with 5 ms a request"

_SMALL_LOG = 256 * MIB


def measure(bench):
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    small = images.allocate(bench.folder / "small-log", _SMALL_LOG, blank=True)
    outcome = Outcome(unit="requests/s")
    with servers.slow_disk(bench, GIB) as slow:

        def bare(depth, seconds):
            return lambda: fio(bench, slow, "randwrite", size=GIB, depth=depth, seconds=seconds)

        def burst(depth):
            with servers.wbcache(bench, slow.uri, log) as server:
                return fio(bench, server, "randwrite", size=GIB, depth=depth, seconds=bench.pick(3, 1))

        def for_ever(depth):
            with servers.wbcache(bench, slow.uri, small) as server:
                # Until the log is full, and some time longer, it is not what lasts.
                fio(bench, server, "randwrite", size=GIB, depth=16, amount=_SMALL_LOG * 5 // 4)
                return fio(bench, server, "randwrite", size=GIB, depth=depth, seconds=bench.pick(15, 5))

        for depth, limit in ((1, 50), (16, 12)):
            found = in_turn(
                bench, {"wbcache": lambda depth=depth: burst(depth), "bare origin": bare(depth, bench.pick(3, 1))}
            )
            outcome.values |= {f"{name}, burst, depth {depth}": values for name, values in rates(found).items()}
            what = f"{TITLE}: burst that fits the log, depth {depth}, against the bare origin"
            outcome.add(what, ratio(found, "wbcache", "bare origin"), target=Target(limit))
        for depth in (1, 4, 16, 64):
            found = in_turn(
                bench,
                {"wbcache": lambda depth=depth: for_ever(depth), "bare origin": bare(depth, bench.pick(4, 1))},
                rounds=bench.rounds if depth == 16 else max(bench.rounds // 2, 1),
            )
            outcome.values |= {f"{name}, log full, depth {depth}": values for name, values in rates(found).items()}
            what = f"{TITLE}: for ever, log full, depth {depth}, against the bare origin"
            outcome.add(what, ratio(found, "wbcache", "bare origin"), target=Target(2))
    return outcome

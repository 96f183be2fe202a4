# SPDX-License-Identifier: BSD-3-Clause
"""Writing everything at random and draining it, against writing it to the origin directly."""

import time

from benchmarks import images, servers
from benchmarks.loads import fio, flush
from benchmarks.rounds import Outcome, Spread, Target, in_turn
from wbcache_core.units import GIB, MIB

TITLE = "Writing and draining, origin with 5 ms a request"

_SIZE = GIB


def measure(bench):
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    amount = bench.pick(256, 48) * MIB
    with servers.slow_disk(bench, _SIZE) as slow:

        def load(server):
            fio(bench, server, "randwrite", size=_SIZE, depth=16, amount=amount)

        def cache():
            with servers.wbcache(bench, slow.uri, log, flush="origin") as server:
                started = time.monotonic()
                load(server)
                flush(server)
                return time.monotonic() - started

        def direct():
            started = time.monotonic()
            load(slow)
            flush(slow)
            return time.monotonic() - started

        found = in_turn(bench, {"wbcache": cache, "bare origin": direct}, rounds=max(bench.rounds // 2, 1))
    outcome = Outcome(values=dict(found), unit="s")
    ratios = [b / a for a, b in zip(found["wbcache"], found["bare origin"], strict=True)]
    outcome.add(f"{TITLE}: speed against the bare origin", Spread.of(ratios), target=Target(2))
    return outcome

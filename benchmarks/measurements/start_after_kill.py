# SPDX-License-Identifier: BSD-3-Clause
"""How long a start takes when a server was killed that had a GiB in its ring, not committed."""

from benchmarks import images, servers, timed_recovery
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target
from wbcache_core.units import GIB

TITLE = "Start after a kill with much in the ring only"


def measure(bench):
    size = bench.pick(GIB, GIB // 8)
    origin = images.sparse(bench.folder / "origin", size)
    log = bench.folder / "log"
    absorbing = {"log_size": servers.ABSORBING_LOG_BYTES, **servers.ABSORBING}
    with_ring, without = [], []
    for number in range(bench.rounds):
        with servers.wbcache(bench, origin, log, ring_stays=True, **absorbing) as server:
            fio(bench, server, "randwrite", size=size, amount=size)
        with_ring.append(timed_recovery.run(origin, log))
        images.forget_ring(log)
        without.append(timed_recovery.run(origin, log))
        bench.say(f"  round {number + 1}: {with_ring[-1]:.3f} s, without the ring {without[-1]:.3f} s")
    outcome = Outcome(values={"with the ring": with_ring, "without": without}, unit="s")
    per_gib = [(a - b) * GIB / size for a, b in zip(with_ring, without, strict=True)]
    outcome.add(f"{TITLE}: more than without it, per GiB", Spread.of(per_gib), "s", Target(1, at_least=False))
    return outcome

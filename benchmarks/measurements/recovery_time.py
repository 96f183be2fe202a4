# SPDX-License-Identifier: BSD-3-Clause
"""How long a start takes that finds a dirty log, against reading the log once."""

from functools import partial

from benchmarks import images, synthetic_log, timed_recovery
from benchmarks.rounds import Outcome, Spread, Target, in_turn, ratio
from wbcache_core.format.segment import MAX_ENTRIES
from wbcache_core.units import GIB

TITLE = "Recovery of a dirty log"


def measure(bench):
    size = bench.pick(GIB, GIB // 4)
    origin = images.sparse(bench.folder / "origin", 4 * GIB)
    outcome = Outcome(unit="s")
    for name, pages, limit in (("1 MiB segments", MAX_ENTRIES, 0.1), ("one-block segments", 1, 1.0)):
        log = synthetic_log.make(bench.folder / "log", origin, size, pages_each=pages, filled=True)
        turns = {
            "recovery": partial(timed_recovery.run, origin, log),
            "reading once": partial(timed_recovery.read_once, log),
        }
        found = in_turn(bench, turns)
        log.unlink()
        outcome.values |= {f"{what}, {name}": values for what, values in found.items()}
        per_gib = Spread.of([seconds * GIB / size for seconds in found["recovery"]])
        outcome.add(f"{TITLE}, {name}", per_gib, "s per GiB", Target(limit, at_least=False))
        against = ratio(found, "recovery", "reading once", of=float)
        outcome.add(f"{TITLE}, {name}: time against reading the log once", against, target=Target(1, at_least=False))
    return outcome

# SPDX-License-Identifier: BSD-3-Clause
"""How long opening a snapshot takes, against the records that it covers: the map is built from records in memory."""

import gc
import random
import time
from functools import partial

from benchmarks.rounds import Outcome, Spread, Target, in_turn
from wbcache_core.format.segment import MAX_ENTRIES
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.record_index import RecordIndex
from wbcache_core.units import GIB, PAGE_BYTES

TITLE = "Opening a past moment"

_VOLUME_BLOCKS = 64 * GIB // PAGE_BYTES
_LIMIT_S = 2
"""For a million records."""


def measure(bench):
    counts = bench.pick((1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000))
    outcome = Outcome(unit="s")
    for count in counts:
        turns = {f"{count:,} records, {name}": partial(_open, make, count) for name, make in _KINDS.items()}
        found = in_turn(bench, turns)
        outcome.values |= found
        for name, seconds in found.items():
            target = Target(_LIMIT_S, at_least=False) if count == 1_000_000 else None
            outcome.add(f"{TITLE}, {name}", Spread.of(seconds), "s", target)
    return outcome


def _open(make, count):
    """Seconds to build the map of so many records, written to segments as make() says, in a volume of 64 GiB."""
    index, lsn = RecordIndex(_VOLUME_BLOCKS), 1
    for entry_words in make(count, random.Random(count)):
        index.append(lsn, len(entry_words), entry_words, ())
        lsn += 1 + len(entry_words)
    gc.collect()
    locations = LocationMap()
    started = time.perf_counter()
    index.between(1, lsn).replay(locations)
    return time.perf_counter() - started


def _one_page_segments(count, rng):
    return ([rng.randrange(_VOLUME_BLOCKS)] for _ in range(count))


def _full_segments(count, rng):
    return ([rng.randrange(_VOLUME_BLOCKS) for _ in range(min(MAX_ENTRIES, count - at))]
            for at in range(0, count, MAX_ENTRIES))  # fmt: skip


def _sequential_segments(count, _):
    return (range(at, min(at + MAX_ENTRIES, count)) for at in range(0, count, MAX_ENTRIES))


_KINDS = {
    "one page a segment": _one_page_segments,
    "full segments, random": _full_segments,
    "full segments, sequential": _sequential_segments,
}

# SPDX-License-Identifier: BSD-3-Clause
"""Write, read and recovery figures on synthetic dirty logs of several sizes: sparse, full of zeros."""

from benchmarks import images, servers, synthetic_log, timed_recovery
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, in_turn, rates
from wbcache_core.units import GIB, PAGE_BYTES

_ORIGIN_BYTES = 64 * GIB
_FULL_SHARE = 0.8


def measure_sizes(bench, title, sizes):
    """`sizes`: name -> (bytes of log, number of distinct blocks in it or None for random ones)."""
    origin = images.sparse(bench.folder / "origin", _ORIGIN_BYTES)
    outcome = Outcome(unit="")
    turns, logs = {}, {}
    for name, (size, blocks) in sizes.items():
        # For the writes there has to be room.
        path = bench.folder / f"log of {name}"
        logs[name] = synthetic_log.make(path, origin, size, blocks=blocks, share=_FULL_SHARE)
        turns[name] = lambda name=name: _turn(bench, origin, logs[name])
    found = in_turn(bench, turns, rounds=max(bench.rounds // 2, 1))
    smallest = next(iter(sizes))
    for name, (size, _) in sizes.items():
        seconds = [recovery for recovery, _, _ in found[name]]
        outcome.values[f"recovery of {name}, s"] = seconds
        outcome.add(f"{title}: recovery, {name}", Spread.of([s * GIB / size for s in seconds]), "s per GiB")
        for index, kind in ((1, "reads"), (2, "writes")):
            samples = {each: [turn[index] for turn in found[each]] for each in sizes}
            outcome.values[f"{kind}, {name}, requests/s"] = rates(samples)[name]
            if name != smallest:
                ratios = [a.rate / b.rate for a, b in zip(samples[name], samples[smallest], strict=True)]
                outcome.add(f"{title}: {kind}, {name} against {smallest}", Spread.of(ratios))
    return outcome


def _turn(bench, origin, log):
    """Recovery in seconds, samples of reads and writes."""
    seconds = timed_recovery.run(origin, log)
    # Read-only: the cache destages nothing and the log stays as it is.
    with servers.wbcache(bench, origin, log, fresh=False, options=("-r",)) as server:
        read = fio(bench, server, "randread", size=_ORIGIN_BYTES, seconds=bench.pick(3, 1), ramp_s=0.5)
    with servers.wbcache(bench, origin, log, fresh=False, **servers.NOT_DESTAGED) as server:
        write = fio(bench, server, "randwrite", size=_ORIGIN_BYTES, amount=bench.pick(8192, 2048) * PAGE_BYTES)
    return seconds, read, write

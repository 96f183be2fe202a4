# SPDX-License-Identifier: BSD-3-Clause
"""1 MiB sequential writes and reads of what is in the ring, against nbdkit's file plugin."""

from benchmarks import images, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Target, cpu_rows, in_turn, ratio
from wbcache_core.units import MIB

TITLE = "1 MiB sequential"

_SIZE = 384 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    other = images.allocate(bench.folder / "other", _SIZE)
    log = images.sparse(bench.folder / "log", servers.ABSORBING_LOG_BYTES)
    passes = bench.pick(3, 1)

    def load(server):
        # The first pass finds memory that nobody has used yet: ring, page cache, buffers of the server's threads.
        for mode in ("write", "read"):
            fio(bench, server, mode, size=_SIZE, block=MIB, depth=4, amount=_SIZE)
        written = fio(bench, server, "write", size=_SIZE, block=MIB, depth=4, amount=_SIZE)
        read = fio(bench, server, "read", size=_SIZE, block=MIB, depth=4, amount=passes * _SIZE)
        return written, read

    def cache():
        with servers.wbcache(bench, origin, log, **servers.ABSORBING) as server:
            return load(server)

    def file():
        with servers.file(bench, other) as server:
            return load(server)

    def null():
        with servers.null(bench, _SIZE, pin=True) as server:
            return load(server)

    found = in_turn(bench, {"wbcache": cache, "file": file, "null plugin, pinned": null})
    outcome = Outcome(unit="MiB/s")
    for index, kind, limit in ((0, "writes", 0.8), (1, "reads", 0.9)):
        samples = {name: [pair[index] for pair in pairs] for name, pairs in found.items()}
        outcome.values |= {f"{name}, {kind}": [sample.mib_per_s for sample in pairs] for name, pairs in samples.items()}
        outcome.add(f"{TITLE} {kind}: against file", ratio(samples, "wbcache", "file"), target=Target(limit))
        outcome.add(f"{TITLE} {kind}: against null plugin, pinned", ratio(samples, "wbcache", "null plugin, pinned"))
        cpu_rows(outcome, f"{TITLE} {kind}", samples, ("wbcache", "file"))
    return outcome

# SPDX-License-Identifier: BSD-3-Clause
"""4 KiB random reads at depth 16: of what is in the ring, in the log, on the origin."""

from benchmarks import images, servers
from benchmarks.loads import fio, flush
from benchmarks.processes import wait_until_quiet
from benchmarks.rounds import Outcome, Target, cpu_rows, in_turn, rates, ratio
from wbcache_core.units import MIB

TITLE = "4 KiB random reads, depth 16"

_SIZE = 256 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", 2 * _SIZE, blank=True)
    seconds = bench.pick(3, 1)

    def load(server):
        return fio(bench, server, "randread", size=_SIZE, seconds=seconds, ramp_s=0.5)

    def fill(server):
        fio(bench, server, "write", size=_SIZE, block=MIB, depth=4, amount=_SIZE)
        wait_until_quiet(server.pid)

    def from_ring():
        with servers.wbcache(bench, origin, log, ring_size=_SIZE * 2) as server:
            fill(server)
            return load(server)

    def from_origin():
        with servers.wbcache(bench, origin, bench.folder / "no-log") as server:
            images.warm(origin)
            return load(server)

    def from_null():
        with servers.null(bench, _SIZE, pin=True) as server:
            return load(server)

    def from_file(path):
        def turn():
            with servers.file(bench, path) as server:
                images.warm(path)
                return load(server)

        return turn

    dirty = images.allocate(bench.folder / "dirty-log", 2 * _SIZE, blank=True)
    with servers.wbcache(bench, origin, dirty, **servers.NOT_DESTAGED) as server:
        # Killed within the second after which an idle cache begins to destage.
        fio(bench, server, "write", size=_SIZE, block=MIB, depth=4, amount=_SIZE)
        flush(server)

    def from_log():
        # To a client that only reads, the cache destages nothing: all stays in the log.
        with servers.wbcache(bench, origin, dirty, fresh=False, options=("-r",)) as server:
            images.warm(dirty)
            return load(server)

    found = in_turn(
        bench,
        {
            "wbcache, ring": from_ring,
            "null plugin, pinned": from_null,
            "wbcache, log": from_log,
            "file on the log": from_file(dirty),
            "wbcache, origin": from_origin,
            "file on the origin": from_file(origin),
        },
    )
    outcome = Outcome(values=rates(found), unit="requests/s")
    for one, other, limit in (
        ("wbcache, ring", "null plugin, pinned", 0.85),
        ("wbcache, log", "file on the log", 0.7),
        ("wbcache, origin", "file on the origin", 0.9),
    ):
        outcome.add(f"{TITLE}: {one}, against {other}", ratio(found, one, other), target=Target(limit))
    ceiling = ratio(found, "null plugin, pinned", "file on the origin")
    outcome.add(f"{TITLE}: null plugin, pinned, against file on the origin", ceiling)
    cpu_rows(outcome, TITLE, found, found)
    return outcome

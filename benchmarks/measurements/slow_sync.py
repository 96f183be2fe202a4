# SPDX-License-Identifier: BSD-3-Clause
"""Writes and flushes where each sync takes a millisecond longer, as on a disk that has to wait for its medium.

A library that is preloaded into every server alike has each fdatasync wait for such a flush, and merges flushes as
Linux does for a disk (benchmarks/slow_sync.c).
"""

import contextlib
import os
from pathlib import Path

from benchmarks import images, servers
from benchmarks.loads import flushed_writes
from benchmarks.rounds import Outcome, Target, in_turn, rates, ratio
from tests.support import clients
from wbcache_core.units import GIB, MIB

TITLE = "4 KiB write and flush, 16 clients, a sync takes 1 ms longer"

_SIZE = 256 * MIB
_CLIENTS = 16
_SOURCE = Path(__file__).parents[1] / "slow_sync.c"


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    library = bench.sockets / "slow_sync.so"
    clients.run("cc", "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl", "-lpthread")
    writes = bench.pick(300, 60)

    @contextlib.contextmanager
    def slow(make):
        os.environ["LD_PRELOAD"] = str(library)
        try:
            context = make()
            server = context.__enter__()
        finally:
            del os.environ["LD_PRELOAD"]
        with contextlib.ExitStack() as stack:
            stack.push(context)
            yield server

    def turn(make):
        def run():
            with slow(make) as server:
                return flushed_writes(bench, server, _CLIENTS, writes, _SIZE)

        return run

    found = in_turn(
        bench,
        {
            "wbcache": turn(lambda: servers.wbcache(bench, origin, log)),
            "cache filter": turn(lambda: servers.cache_filter(bench, origin)),
            "file": turn(lambda: servers.file(bench, origin)),
        },
    )
    outcome = Outcome(values=rates(found), unit="writes/s")
    for peer in ("cache filter", "file"):
        outcome.add(f"{TITLE}: against {peer}", ratio(found, "wbcache", peer), target=Target(2))
    return outcome

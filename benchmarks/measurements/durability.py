# SPDX-License-Identifier: BSD-3-Clause
"""That the flushed data of these benchmarks was durable: load, SIGKILL, restart, read back."""

import time

from benchmarks import images, servers
from benchmarks.rounds import Outcome, Spread, Target
from tests.support import clients
from tests.support.stamped_blocks import blocks_of, check_after_crash, mark_flushed, read_sequences
from tests.support.stamped_client import StampedClient
from wbcache_core.units import MIB

TITLE = "Flushed data after SIGKILL"

_PAGES = 2000
_CLIENTS = 2


def measure(bench):
    origin = images.sparse(bench.folder / "origin", 64 * MIB)
    log = images.allocate(bench.folder / "log", 64 * MIB, blank=True)
    blocks = blocks_of(_PAGES)
    found = [0] * len(blocks)
    durable = lost = 0
    for number in range(bench.rounds):
        with servers.wbcache(bench, origin, log, fresh=not number, ring_size="4M") as server:
            writes = _load_until_killed(server, number, bench.pick(2.0, 0.5))
        durable += sum(write.durable for write in writes)
        before = found
        with servers.wbcache(bench, origin, log, fresh=False) as server, clients.connection(server.uri) as handle:
            found = read_sequences(handle, blocks)
        try:
            check_after_crash(before, writes, found)
        except AssertionError as error:
            lost += 1
            bench.say(f"  round {number + 1}: {error}")
        bench.say(f"  round {number + 1}: killed after {len(writes)} writes; {durable} durable ones so far")
    outcome = Outcome(values={"durable writes": [durable], "rounds that lost some": [lost]}, unit="")
    outcome.add(f"{TITLE}: writes flushed and then read back", Spread.of([durable]), "writes", Target(1))
    outcome.add(f"{TITLE}: rounds that lost one, or the order", Spread.of([lost]), "rounds", Target(0, at_least=False))
    return outcome


def _load_until_killed(server, number, seconds):
    """All writes of clients that flush now and then, until the server is killed under them."""
    loads = [
        StampedClient(
            server.uri, seed=f"{number}/{client}", first_sequence=(number * _CLIENTS + client + 1 << 32), client=client,
            client_count=_CLIENTS, pages=_PAGES, flush_share=0.02,
        )
        for client in range(_CLIENTS)
    ]  # fmt: skip
    try:
        for load in loads:
            load.wait_until_writing()
        time.sleep(seconds)
        server.kill()
        reports = [load.finish() for load in loads]
    finally:
        for load in loads:
            load.destroy()
    writes = [write for written, _ in reports for write in written]
    mark_flushed(writes, max(flush_submitted_ns for _, flush_submitted_ns in reports))
    return writes

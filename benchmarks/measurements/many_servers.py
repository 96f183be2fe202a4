# SPDX-License-Identifier: BSD-3-Clause
"""32 servers on one host, with default settings: what those take that nobody uses, and what a busy one gets."""

from contextlib import ExitStack

from benchmarks import images, processes, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target, in_turn, rates, ratio
from tests.support import clients
from wbcache_core.units import GIB, MIB

TITLE = "32 servers on one host"

_SERVERS = 32
_SIZE = 512 * MIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", GIB, blank=True)
    seconds, idle_mib = bench.pick(8, 2), []

    def load():
        with servers.wbcache(bench, origin, log) as server:
            return fio(bench, server, "randwrite", size=_SIZE, seconds=seconds)

    def beside_idle_ones():
        with ExitStack() as stack:
            idle = []
            for number in range(_SERVERS - 1):
                one = images.sparse(bench.folder / f"origin{number}", _SIZE)
                server = stack.enter_context(servers.wbcache(bench, one, bench.folder / f"log{number}", log_size=GIB))
                handle = stack.enter_context(clients.connection(server.uri))
                handle.pwrite(b"w" * MIB, 0)
                handle.flush()
                idle.append(server)
            processes.wait_until_quiet(idle[-1].pid, at_least_s=bench.pick(8, 3))
            sample = load()
            idle_mib.extend(processes.anonymous_bytes(server.pid, shared=True) / MIB for server in idle)
        return sample

    found = in_turn(bench, {"alone": load, "31 idle ones beside it": beside_idle_ones})
    outcome = Outcome(values={f"wbcache, {name}": values for name, values in rates(found).items()}, unit="requests/s")
    outcome.add(
        f"{TITLE}: random writes, one busy among idle ones against alone",
        ratio(found, "31 idle ones beside it", "alone"),
        target=Target(0.9),
    )
    outcome.add(f"{TITLE}: memory of an idle one that has written 1 MiB", Spread.of(idle_mib), "MiB")
    return outcome

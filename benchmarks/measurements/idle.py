# SPDX-License-Identifier: BSD-3-Clause
"""What a cache does that has nothing to do, with a client connected: wake-ups and I/O."""

import time

from benchmarks import images, processes, servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, Spread, Target
from tests.support import clients
from wbcache_core.units import MIB

TITLE = "Idle"

_SIZE = 64 * MIB


def measure(bench):
    seconds = bench.pick(30, 5)
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", _SIZE, blank=True)
    with servers.wbcache(bench, origin, log) as server, clients.connection(server.uri):
        fio(bench, server, "randwrite", size=_SIZE, amount=_SIZE // 4)
        processes.wait_until_quiet(server.pid, at_least_s=8)
        wake_ups, device_bytes = processes.wake_ups(server.pid), sum(processes.device_bytes(server.pid))
        time.sleep(seconds)
        wake_ups = (processes.wake_ups(server.pid) - wake_ups) / seconds
        device_bytes = sum(processes.device_bytes(server.pid)) - device_bytes
    outcome = Outcome(values={"wake-ups": [wake_ups], "device bytes": [float(device_bytes)]}, unit="")
    outcome.add(f"{TITLE}: wake-ups", Spread.of([wake_ups]), "a second", Target(5, at_least=False))
    outcome.add(f"{TITLE}: I/O in {seconds} s", Spread.of([device_bytes]), "bytes", Target(0, at_least=False))
    return outcome

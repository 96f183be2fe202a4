# SPDX-License-Identifier: BSD-3-Clause
"""1 MiB sequential writes for a minute, log and origin on one disk, against what the disk gives to as many bytes."""

from benchmarks import images, processes, servers
from benchmarks.loads import device, fio
from benchmarks.rounds import Outcome, Spread, Target, in_turn
from wbcache_core.units import GIB, MIB

TITLE = "1 MiB sequential writes for a minute"

_SIZE = 4 * GIB


def measure(bench):
    origin = images.allocate(bench.folder / "origin", _SIZE)
    log = images.allocate(bench.folder / "log", 2 * GIB, blank=True)
    seconds, short = bench.pick(60, 8), bench.pick(15, 3)

    def cache():
        """Rate, bytes written and bytes read on the disk for each byte of the client."""
        with servers.wbcache(bench, origin, log) as server:
            written = fio(bench, server, "write", size=_SIZE, block=MIB, depth=16, seconds=seconds)
            total = written.requests * MIB
            return written.mib_per_s, *(count / total for count in processes.device_bytes(server.pid))

    def disk():
        """Rates of writing, and of reading."""
        load = {"size": _SIZE, "block": MIB, "depth": 16, "seconds": short}
        return tuple(device(bench, origin, mode, **load).mib_per_s for mode in ("write", "read"))

    found = in_turn(bench, {"wbcache": cache, "the disk itself": disk})
    outcome = Outcome(unit="MiB/s")
    outcome.values = {
        "wbcache": [rate for rate, _, _ in found["wbcache"]],
        "the disk, writing": [rate for rate, _ in found["the disk itself"]],
        "the disk, reading": [rate for _, rate in found["the disk itself"]],
    }
    shares = [
        rate * (written / write_rate + read / read_rate)
        for (rate, read, written), (write_rate, read_rate) in zip(*found.values(), strict=True)
    ]
    outcome.add(f"{TITLE}: against the disk, for as many bytes", Spread.of(shares), target=Target(0.9))
    for index, verb in ((1, "read"), (2, "written")):
        amounts = Spread.of([turn[index] for turn in found["wbcache"]])
        outcome.add(f"{TITLE}: bytes {verb} on the disk for each byte", amounts, "bytes")
    return outcome

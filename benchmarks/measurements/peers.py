# SPDX-License-Identifier: BSD-3-Clause
"""What a peer costs: flushes over a link with a delay, sustained writes, catching up, and a pair that is idle.

Both logs are on the same disk here, and both servers on the same processors.
"""

import contextlib
import statistics
import subprocess
import sys
import time

from benchmarks import images, processes, servers
from benchmarks.loads import device, fio, flushed_writes
from benchmarks.rounds import Outcome, Spread, Target, in_turn, rates, ratio
from tests.support import clients
from tests.support.clients import REPOSITORY
from tests.support.control import ask
from wbcache_core.units import GIB, MIB, PAGE_BYTES

TITLE = "Peers"

_SIZE = 256 * MIB
_DELAY_S = 0.0002
"""Of the link, there and back. The relay that makes it takes longer; so its round trip is measured."""
_ROUND_TRIPS = 2000
_WORKER_S = 1.0
"""The process that writes to the origin for a server ends a little later than that is killed."""


@contextlib.contextmanager
def standby(bench, log):
    """A standby with a new log."""
    images.forget_log(log)
    with servers.nbdkit(
        bench, "python", servers.PLUGIN, "role=standby", f"log={log}", "force=discard-log"
    ) as server:
        yield server


@contextlib.contextmanager
def link(bench, server, round_trip_s):
    """The URI of the server behind a link; without a delay, its own."""
    if not round_trip_s:
        yield server.uri
        return
    path = bench.sockets / "relay"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.delay_relay", path, server.socket, str(round_trip_s / 2)], cwd=REPOSITORY
    )
    try:
        while not path.exists():
            time.sleep(0.01)
        yield f"nbd+unix:///?socket={path}"
    finally:
        process.kill()
        process.wait()
        path.unlink()


@contextlib.contextmanager
def pair(bench, origin, logs, round_trip_s=0.0, **parameters):
    """An owner and its standby, up to date: (owner, standby, control socket of the owner)."""
    control = bench.sockets / "control"
    time.sleep(_WORKER_S)
    with (
        standby(bench, logs[2]) as peer,
        link(bench, peer, round_trip_s) as uri,
        servers.wbcache(bench, origin, logs[1], peer=uri, control=control, **parameters) as owner,
    ):
        with clients.connection(owner.uri):
            wait_until_up_to_date(control)
        yield owner, peer, control


def wait_until_up_to_date(control):
    while True:
        (facts,) = ask(control, "status")["peers"]
        if facts["state"] == "up-to-date" and not facts["behind"]:
            return
        time.sleep(0.02)


def round_trip_s(bench):
    """How much longer an answer takes over the link than without it: the difference of two medians."""
    with servers.memory(bench, MIB) as server, link(bench, server, _DELAY_S) as uri:
        return _answer_s(uri) - _answer_s(server.uri)


def _answer_s(uri):
    times = []
    with clients.connection(uri) as handle:
        for _ in range(_ROUND_TRIPS):
            began = time.monotonic()
            handle.pread(512, 0)
            times.append(time.monotonic() - began)
    return statistics.median(times)


def measure(bench):
    # One for each kind of turn, see _WORKER_S.
    origins = [images.allocate(bench.folder / name, _SIZE) for name in ("origin", "peers-origin")]
    logs = [images.allocate(bench.folder / name, GIB, blank=True) for name in ("log", "owner-log", "peer-log")]
    outcome = Outcome(unit="writes/s")
    _flushes(bench, origins, logs, outcome)
    _sustained(bench, origins, logs, outcome)
    _catching_up(bench, origins, logs, outcome)
    _idle(bench, origins, logs, outcome)
    return outcome


def _flushes(bench, origins, logs, outcome):
    writes = bench.pick(2500, 500)

    def alone():
        with servers.wbcache(bench, origins[0], logs[0]) as server:
            return flushed_writes(bench, server, 1, writes, _SIZE)

    def with_peer(round_trip_s):
        def run():
            with pair(bench, origins[1], logs, round_trip_s, flush="peer") as (owner, _, _):
                return flushed_writes(bench, owner, 1, writes, _SIZE)

        return run

    far = f"flush=peer, {_DELAY_S * 1000:.1f} ms"
    turns = {"alone": alone, "flush=peer": with_peer(0.0), "round trip": lambda: round_trip_s(bench)}
    found = in_turn(bench, turns | {far: with_peer(_DELAY_S)})
    trips = found.pop("round trip")
    outcome.values |= rates(found)
    outcome.add(f"{TITLE}: time of a flush, against one without a peer", _times(found, "flush=peer"))
    outcome.add(f"{TITLE}: round trip of a link with a delay", Spread.of([trip * 1e6 for trip in trips]), "us")
    outcome.add(
        f"{TITLE}: time of a flush over that link, against a flush without a peer and the round trip",
        _times(found, far, trips), target=Target(1.5, at_least=False),
    )  # fmt: skip


def _times(found, name, trips=None):
    """The time of a flush, against that of one without a peer and a round trip."""
    turns = zip(found[name], found["alone"], trips or [0.0] * len(found[name]), strict=True)
    return Spread.of([(1 / one.rate) / (1 / alone.rate + trip) for one, alone, trip in turns])


def _sustained(bench, origins, logs, outcome):
    seconds = bench.pick(20, 5)

    def alone():
        with servers.wbcache(bench, origins[0], logs[0]) as server:
            return fio(bench, server, "randwrite", size=_SIZE, seconds=seconds)

    def with_peer():
        with pair(bench, origins[1], logs) as (owner, _, _):
            return fio(bench, owner, "randwrite", size=_SIZE, seconds=seconds)

    found = in_turn(bench, {"sustained, alone": alone, "sustained, with a peer": with_peer})
    outcome.values |= rates(found)
    against = ratio(found, "sustained, with a peer", "sustained, alone")
    outcome.add(f"{TITLE}: sustained 4 KiB writes, against those without a peer", against, target=Target(0.7))


def _catching_up(bench, origins, logs, outcome):
    """The standby was away while most of the log was written."""
    amount = bench.pick(512 * MIB, 128 * MIB)
    speeds, against = [], []
    for _ in range(bench.rounds):
        control = bench.sockets / "control"
        socket = bench.sockets / "later"
        time.sleep(_WORKER_S)
        with servers.wbcache(
            bench, origins[0], logs[0], peer=f"nbd+unix:///?socket={socket}", peer_lost="continue", peer_timeout="1s",
            control=control, **servers.NOT_DESTAGED,
        ) as owner:  # fmt: skip
            fio(bench, owner, "write", size=_SIZE, block=MIB, amount=amount)
            with standby(bench, logs[2]) as peer:
                socket.symlink_to(peer.socket)
                while (facts := ask(control, "status")["peers"][0])["state"] != "catching-up":
                    time.sleep(0.002)
                before = time.monotonic()
                wait_until_up_to_date(control)
                elapsed_s = time.monotonic() - before
            socket.unlink()
        disk = device(bench, logs[2], "write", size=amount, block=MIB, depth=4, amount=amount, options=("--fsync=32",))
        speeds.append(facts["behind"] * PAGE_BYTES / MIB / elapsed_s)
        against.append(speeds[-1] / disk.mib_per_s)
    outcome.values["catching up, MiB/s"] = speeds
    what = f"{TITLE}: catching up, against sequential writes with a sync every 32 MiB"
    outcome.add(what, Spread.of(against), target=Target(0.7))


def _idle(bench, origins, logs, outcome):
    seconds = bench.pick(20, 5)
    with pair(bench, origins[1], logs) as (owner, peer, _), clients.connection(owner.uri):
        for server in (owner, peer):
            processes.wait_until_quiet(server.pid, at_least_s=8)
        before = [processes.wake_ups(server.pid) for server in (owner, peer)]
        time.sleep(seconds)
        found = [processes.wake_ups(server.pid) for server in (owner, peer)]
    for name, start, end in zip(("owner", "standby"), before, found, strict=True):
        rate = (end - start) / seconds
        outcome.add(f"{TITLE}: wake-ups of an idle {name}", Spread.of([rate]), "a second", Target(5, at_least=False))

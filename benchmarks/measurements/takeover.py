# SPDX-License-Identifier: BSD-3-Clause
"""How long clients wait when a running standby takes over, with logs of several sizes that the origin lacks.

Against a server that is started with the log of the standby, which reads it.
"""

import contextlib
import time
from functools import partial

from benchmarks import images, servers, synthetic_log
from benchmarks.rounds import Outcome, Spread, Target, in_turn, ratio
from tests.support import clients
from tests.support.control import ask
from wbcache_core.units import GIB, MIB, PAGE_BYTES

TITLE = "Taking over"

_ORIGIN_BYTES = 64 * GIB


def measure(bench):
    sizes = bench.pick({"1 GiB": GIB, "16 GiB": 16 * GIB}, {"64 MiB": 64 * MIB, "1 GiB": GIB})
    turns = {}
    for name, size in sizes.items():
        turns[f"promote, {name}"] = partial(_promoted, bench, size)
        turns[f"start, {name}"] = partial(_started, bench, size)
    found = in_turn(bench, turns)
    outcome = Outcome(unit="s", values=found)
    small, large = sizes
    for name in turns:
        outcome.add(f"{TITLE}: first write answered after {name}", Spread.of(found[name]), "s")
    against = ratio(found, f"promote, {large}", f"promote, {small}", of=float)
    outcome.add(f"{TITLE}: promote with {large} against {small}", against, target=Target(1.5, at_least=False))
    return outcome


@contextlib.contextmanager
def _pair(bench, size):
    """A new origin and the log of a standby, of that size; gone at the end."""
    origin = images.sparse(bench.folder / "origin", _ORIGIN_BYTES)
    log = synthetic_log.make(bench.folder / "log", origin, size, is_copy=True)
    try:
        yield origin, log
    finally:
        images.forget_ring(log)
        log.unlink()
        origin.unlink()


def _promoted(bench, size):
    """Seconds from the command to the answer of the first durable write."""
    control = bench.sockets / "control"
    words = {"role": "standby", "control": control, **servers.NOT_DESTAGED}
    with _pair(bench, size) as devices, servers.nbdkit(bench, *servers.wbcache_arguments(*devices, **words)) as server:
        # The log has been read by then: without a peer it takes no requests before.
        ask(control, "status")
        started = time.monotonic()
        # The owner of a synthetic log never said that this is all.
        answer = ask(control, "promote", force="incomplete")
        assert answer["ok"], answer
        _write(server)
        return time.monotonic() - started


def _started(bench, size):
    """The same, from the start of a server."""
    with _pair(bench, size) as devices:
        words = servers.wbcache_arguments(*devices, force="take-over", **servers.NOT_DESTAGED)
        started = time.monotonic()
        with servers.nbdkit(bench, *words) as server:
            _write(server)
            return time.monotonic() - started


def _write(server):
    with clients.connection(server.uri) as handle:
        handle.pwrite(bytes(PAGE_BYTES), 0)
        handle.flush()

# SPDX-License-Identifier: BSD-3-Clause
"""Reads of a remote origin that takes 2 ms for each request, and what nbdkit's cache filter in front of it changes."""

import contextlib
import functools
import time

from benchmarks import servers
from benchmarks.loads import fio
from benchmarks.rounds import Outcome, in_turn, rates, ratio
from tests.support import clients
from wbcache_core.units import MIB

TITLE = "Remote origin, 2 ms a request, 4 KiB"

_DELAY_MS = 2
_SIZE = 4 * MIB
_DEPTHS = (1, 16)
_READ_CACHE = ("cache=writethrough", "cache-on-read=true")
"""As docs/remote-origins.md recommends it, with the filter's default blocks of 64 KiB."""


@contextlib.contextmanager
def _remote(bench, is_cached):
    """Something slow to serve; with is_cached=True behind a cache filter that has read nothing yet."""
    with servers.slow_disk(bench, _SIZE, _DELAY_MS) as remote:
        if not is_cached:
            yield remote
            return
        with servers.nbdkit(bench, "--filter=cache", "nbd", f"uri={remote.uri}", *_READ_CACHE) as between:
            yield between


def _reads(bench, depth, is_cached):
    """Each page once, in random order; then random pages of the same."""
    with _remote(bench, is_cached) as origin:
        with servers.wbcache(bench, origin.uri, bench.folder / "log", log_size="64M") as server:
            first = fio(bench, server, "randread", size=_SIZE, depth=depth, amount=_SIZE)
            return first, fio(bench, server, "randread", size=_SIZE, depth=depth, seconds=1)


def _drain_s(bench, is_cached):
    """How long it takes to destage that many pages, written in random order."""
    control = bench.sockets / "control"
    with _remote(bench, is_cached) as origin:
        # The servers' requests end with them: a start need not wait for those of the round before.
        parameters = {"log_size": "64M", "destage_delay": "1h", "origin_settle": "0s", "control": control}
        with servers.wbcache(bench, origin.uri, bench.folder / "log", **parameters) as server:
            fio(bench, server, "randwrite", size=_SIZE, amount=_SIZE // 2)
            started = time.monotonic()
            clients.run("/usr/bin/python3", "-m", "wbcache_core", "drain", "--wait", control, folder=clients.REPOSITORY)
            return time.monotonic() - started


def _with_and_without(bench, turn):
    """`turn` with the filter and without, in turn."""
    turns = {"the cache filter": lambda: turn(is_cached=True), "no filter": lambda: turn(is_cached=False)}
    return in_turn(bench, turns)


def measure(bench):
    outcome = Outcome(unit="requests/s")
    for depth in _DEPTHS:
        found = _with_and_without(bench, functools.partial(_reads, bench, depth))
        for number, which in enumerate(("first read of a page", "later reads")):
            samples = {name: [pair[number] for pair in pairs] for name, pairs in found.items()}
            outcome.values |= {f"{name}, {which}, depth {depth}": values for name, values in rates(samples).items()}
            what = f"{TITLE}: {which}, depth {depth}, with the cache filter, against without"
            outcome.add(what, ratio(samples, *samples))
    found = _with_and_without(bench, functools.partial(_drain_s, bench))
    what = f"{TITLE}: time of a drain of random pages, with the cache filter, against without"
    outcome.add(what, ratio(found, *found, of=float))
    return outcome

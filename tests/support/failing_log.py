# SPDX-License-Identifier: BSD-3-Clause
"""A cache on a log in memory that a test lets fail, holds up, heals, and cuts off."""

import contextlib
import errno
import threading
import time

import pytest

from tests.crash.workload import make_config
from tests.support.abandon import abandon
from tests.support.gated_origin import PATIENCE_S, in_background
from tests.support.simulated_disk import Journal, MemoryDisk, SimulatedDisk
from wbcache_core.errors import LogFailedError
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import MIB, PAGE_BYTES

BLOCKS = 2048
QUIET = {"commit_interval": "1h", "commit_size": "128K", "destage_delay": "1h"}
QUICK_S = 5


class Log(SimulatedDisk):
    """A request of the kind `held` waits, when it has begun, until `gate` is set."""

    def __init__(self, image, journal):
        super().__init__(image, "log", journal, pause=self._wait)
        self.gate, self.is_reached = threading.Event(), threading.Event()
        self.gate.set()
        self.held = "write"

    def _wait(self, kind):
        if kind == self.held and not self.gate.is_set():
            self.is_reached.set()
            assert self.gate.wait(PATIENCE_S)

    def fail(self, *kinds, value=errno.EIO, times=None, shorten=False):
        self.faults.errno_value, self.faults.times, self.faults.shorten = value, times, shorten
        self.faults.failing = set(kinds)

    def heal(self):
        self.faults.failing = set()


class FailingPair:
    """A log and an origin in memory, and a cache on them with real threads."""

    def __init__(self):
        self.journal = Journal()
        self.log = Log(bytes(4 * MIB), self.journal)
        self.origin = MemoryDisk(bytearray(BLOCKS * PAGE_BYTES), "origin")
        self.cache = None

    def start(self, **settings):
        self.cache = Cache(make_config(**{**QUIET, **settings}), origin=self.origin, log=self.log)
        self.cache.activate()
        return self.cache

    def write(self, letter, block, count=1, **options):
        self.cache.volume.write(letter * PAGE_BYTES * count, block * PAGE_BYTES, **options)

    def read(self, block, cache=None):
        found = bytearray(PAGE_BYTES)
        (cache or self.cache).volume.read_into(found, block * PAGE_BYTES)
        return bytes(found[:1]) if found == found[:1] * PAGE_BYTES else bytes(found)

    def after_a_cut(self, blocks, seed=1, style="none"):
        """What these blocks hold when the power is cut now, and the log is sound."""
        log = MemoryDisk(self.log.crash(seed, style), "log")
        origin = MemoryDisk(bytearray(self.origin.content), "origin")
        cache = Cache(make_config(), origin=origin, log=log)
        assert examine(log, origin).findings == []
        return b"".join(self.read(block, cache) for block in blocks)

    def close(self):
        self.log.gate.set()
        if self.cache:
            in_background(abandon, self.cache).result(PATIENCE_S)


@contextlib.contextmanager
def fails_with(value, error=LogFailedError):
    started = time.monotonic()
    with pytest.raises(error) as caught:
        yield
    assert caught.value.errno_value == value
    assert time.monotonic() - started < QUICK_S

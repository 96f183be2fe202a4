# SPDX-License-Identifier: BSD-3-Clause
"""A server is killed, the next one reads what the killed one had not synced, and then the power fails."""

import random

import pytest

from tests.crash.disks import LOG_BYTES, ORIGIN_BYTES, page
from tests.crash.replay import Replay
from tests.crash.workload import make_config
from tests.support.abandon import abandon
from tests.support.simulated_disk import STYLES, Journal, MemoryDisk, SimulatedDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import PAGE_BYTES

TRIES = 12
"""Cuts at each place."""


class _Killed(BaseException):
    """In place of the sync that the killed server did not live to make."""


def _killed():
    raise _Killed


def _write(cache, letter, *blocks):
    for block in blocks:
        cache.volume.write(page(letter), block * PAGE_BYTES)


def _expected(*writes):
    volume = bytearray(ORIGIN_BYTES)
    for letter, *blocks in writes:
        for block in blocks:
            volume[block * PAGE_BYTES : (block + 1) * PAGE_BYTES] = page(letter)
    return bytes(volume)


FLUSHED, UNSYNCED, LATER = (b"a", 1, 2, 3), (b"b", 2, 5, 6, 7), (b"c", 7, 9)
BEFORE, KILLED, AFTER = _expected(FLUSHED), _expected(FLUSHED, UNSYNCED), _expected(FLUSHED, UNSYNCED, LATER)


class _Run:
    """Two servers on the same disks; the first is killed between the write and the sync of a commit."""

    def __init__(self, compress):
        self.journal = Journal()
        sizes = {"log": LOG_BYTES, "origin": ORIGIN_BYTES}
        self._log, self._origin = (
            SimulatedDisk(bytes(size), name, self.journal, number) for number, (name, size) in enumerate(sizes.items())
        )
        self._settings = {"commit_interval": "1h", "destage_delay": "1h", "compress": compress}
        simulation = Simulation(1)
        with simulation.patched():
            simulation.run(self._main)

    def _start(self):
        return Cache(make_config(**self._settings), origin=self._origin, log=self._log)

    def _main(self):
        cache = self._start()
        cache.activate()
        _write(cache, *FLUSHED)
        cache.volume.flush()
        _write(cache, *UNSYNCED)
        sync, self._log.sync = self._log.sync, _killed
        with pytest.raises(_Killed):
            cache.volume.flush()
        abandon(cache)
        self._log.sync = sync
        self.killed_at = len(self.journal)
        cache = self._start()
        cache.activate()
        self.serving_at = len(self.journal)
        served = bytearray(cache.volume.size)
        cache.volume.read_into(served, 0)
        assert served == KILLED
        _write(cache, *LATER)
        cache.volume.flush()
        self.flushed_at = len(self.journal)
        cache.stop()


def _recover(disks):
    log, origin = (MemoryDisk(bytearray(disk), name) for disk, name in zip(disks, ("log", "origin"), strict=True))
    cache = Cache(make_config(), origin=origin, log=log)
    volume = bytearray(cache.volume.size)
    cache.volume.read_into(volume, 0)
    assert examine(log, origin).findings == []
    return bytes(volume)


@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_what_a_start_served_is_durable_before_anything_relies_on_it(compress):
    run = _Run(compress)
    replay = Replay([bytes(LOG_BYTES), bytes(ORIGIN_BYTES)], run.journal.events)
    found = set()
    while True:
        if replay.position >= run.killed_at:
            allowed = (BEFORE, KILLED) if replay.position < run.serving_at else (KILLED, AFTER)
            allowed = (AFTER,) if replay.position >= run.flushed_at else allowed
            for number in range(TRIES):
                survivors = replay.survivors(random.Random(number), STYLES[number % len(STYLES)])
                with replay.after_cut(survivors) as disks:
                    volume = _recover(disks)
                assert volume in allowed, f"cut at {replay.position}, variant {number}"
                found.add(volume)
        if replay.position == len(run.journal):
            break
        replay.advance()
    assert found == {BEFORE, KILLED, AFTER}

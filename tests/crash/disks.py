# SPDX-License-Identifier: BSD-3-Clause
"""Log and origin from one short session to the next, for tests that choose themselves what a crash leaves."""

import itertools

from tests.crash.workload import LOG_DISK, make_config
from tests.support.abandon import abandon
from tests.support.simulated_disk import Journal, MemoryDisk, SimulatedDisk
from tests.support.simulated_threads import Simulation
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import MIB, PAGE_BYTES

LOG_BYTES = 4 * MIB
ORIGIN_BYTES = 64 * PAGE_BYTES
_seeds = itertools.count()
"""The identifier of a new log comes from the simulation: no two may be the same."""


class Disks:
    """Log and origin from one session to the next."""

    def __init__(self):
        self.images = [bytearray(LOG_BYTES), bytearray(ORIGIN_BYTES)]

    def session(self, function, **settings):
        """Run function(cache) on an active cache, then cut it off; returns the journal. All it wrote is in `images`."""
        journal = Journal()
        self.simulation = simulation = Simulation(next(_seeds))
        disks = [
            SimulatedDisk(image, name, journal, number)
            for number, (image, name) in enumerate(zip(self.images, ("log", "origin"), strict=True))
        ]
        settings = {"commit_interval": "1h", "destage_delay": "1h"} | settings

        def main():
            cache = Cache(make_config(**settings), origin=disks[1], log=disks[0])
            cache.activate()
            function(cache)
            abandon(cache)

        with simulation.patched():
            simulation.run(main)
        self.images = [disk.content for disk in disks]
        return journal

    def wait_until(self, condition):
        """Inside a session: let the cache go on until condition() holds."""
        for _ in range(100_000):
            if condition():
                return
            self.simulation.sleep(0.01)
        raise AssertionError("nothing happens")

    def recover(self):
        """What the volume holds now."""
        log, origin = (MemoryDisk(image, name) for image, name in zip(self.images, ("log", "origin"), strict=True))
        cache = Cache(make_config(), origin=origin, log=log)
        volume = bytearray(cache.volume.size)
        cache.volume.read_into(volume, 0)
        assert examine(log, origin).findings == []
        return bytes(volume)


def page(letter):
    return letter * PAGE_BYTES


def write(*blocks):
    """A session's function: one commit with a page of its own letter in each block."""

    def function(cache):
        for letter, block in blocks:
            cache.volume.write(page(letter), block * PAGE_BYTES)
        cache.volume.flush()

    return function


def log_writes(journal):
    return [event.piece for event in journal.events if event.piece and event.disk == LOG_DISK]

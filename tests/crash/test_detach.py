# SPDX-License-Identifier: BSD-3-Clause
"""Power fails at any write or sync while a log is detached and another one attached, under writes.

The log with which the next server has to start is the one that the origin's mark names. A log that was detached may
be started with, too: it never writes anything over what is newer.
"""

import os
import random

import pytest

from tests.crash.replay import Replay
from tests.crash.workload import make_config
from tests.support.simulated_disk import STYLES, Journal, MemoryDisk, SimulatedDisk
from wbcache_core.pairing.mark import DIRTY
from wbcache_core.server.cache import Cache
from wbcache_core.server.served import Served
from wbcache_core.tools.checker import examine
from wbcache_core.units import MIB, PAGE_BYTES

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))
BLOCKS = 40
LOG_BYTES = 4 * MIB
OLD, ORIGIN, NEW = range(3)


class Run:
    """Writes a letter to a range of blocks with each step, which may be durable from its flush on."""

    def __init__(self, monkeypatch, **settings):
        self.journal = Journal()
        self.images = [bytes(LOG_BYTES), bytes(BLOCKS * PAGE_BYTES), bytes(LOG_BYTES)]
        names = ("log", "origin", "new log")
        self.disks = [
            SimulatedDisk(image, name, self.journal, number)
            for number, (image, name) in enumerate(zip(self.images, names, strict=True))
        ]
        self.model = [[b"\0"] for _ in range(BLOCKS)]
        """What each block had, newest last."""
        self.steps = []
        """(Position in the journal, for each block how many of its versions cannot survive a cut from there on)."""
        monkeypatch.setattr("wbcache_core.server.opening.LogFile", lambda *_: self.disks[NEW])
        self.marks = []
        """(Position, log, state) of each mark."""
        monkeypatch.setattr(
            "wbcache_core.pairing.mark.OriginSide.put", lambda _side, _volume, log, state: self._put(log, state)
        )  # fmt: skip
        config = make_config(commit_interval="1h", destage_delay="1h", low_watermark="50", **settings)
        self.served = Served(config, self.disks[ORIGIN], self.disks[OLD])
        self.served.activate()

    def _put(self, log, state):
        self.marks.append((len(self.journal), log, state))
        return True

    def write(self, letter, blocks, flushes=True):
        for block in blocks:
            self.served.now.volume.write(letter * PAGE_BYTES, block * PAGE_BYTES)
            self.model[block].append(letter)
        if flushes:
            self.served.now.volume.flush()
            self.steps.append((len(self.journal), [len(versions) - 1 for versions in self.model]))

    def switch(self, function, *arguments):
        while function(*arguments)["state"] == "draining":
            pass
        # All that was answered is on the origin.
        self.steps.append((len(self.journal), [len(versions) - 1 for versions in self.model]))

    def oldest_at(self, position):
        """For each block the oldest version that a cut there may leave."""
        return max((step for step in self.steps if step[0] <= position), default=(0, [0] * BLOCKS))[1]

    def log_at(self, position):
        """Which log the origin is marked with there."""
        _, log, state = max((mark for mark in self.marks if mark[0] <= position), default=(0, "log", DIRTY))
        return NEW if "new" in log else OLD, state


def served_with(images, log):
    """The volume, for each block a letter. The log has to be sound."""
    disk, origin = MemoryDisk(bytearray(images[log]), "log"), MemoryDisk(bytearray(images[ORIGIN]), "origin")
    cache = Cache(make_config(), origin, disk)
    found = bytearray(cache.volume.size)
    cache.volume.read_into(found, 0)
    cache.stop()
    if any(disk.content[:8192]):
        assert examine(disk, origin).findings == []
    pages = [bytes(found[at : at + PAGE_BYTES]) for at in range(0, len(found), PAGE_BYTES)]
    return [page[:1] if page == page[:1] * PAGE_BYTES else page for page in pages]


@pytest.mark.parametrize("formats", [False, True])
def test_no_cut_loses_anything(monkeypatch, formats, record_property):
    print(f"seed {SEED}")
    run = Run(monkeypatch)
    run.write(b"a", range(20))
    run.write(b"b", range(5, 15), flushes=False)
    run.switch(run.served.detach, False)
    detached = len(run.journal)
    run.write(b"c", range(10, 30))
    run.write(b"d", range(12, 14), flushes=False)
    run.switch(run.served.attach, "/new", formats, None, False)
    attached = len(run.journal)
    run.write(b"e", range(15, 40))
    run.write(b"f", range(3), flushes=False)
    run.switch(run.served.detach, False)
    run.write(b"g", range(2, 6))
    run.served.stop()
    rng = random.Random(f"cuts {SEED}")
    replay = Replay(run.images, run.journal.events)
    cuts = 0
    while True:
        position = replay.position
        oldest = run.oldest_at(position)
        named, state = run.log_at(position)
        # A clean mark allows both: neither log has anything that is needed.
        logs = {named} if state == DIRTY else {OLD, NEW} if position > detached else {named}
        for style in ("none", rng.choice(STYLES[1:])):
            with replay.after_cut(replay.survivors(rng, style)) as images:
                for log in logs:
                    cuts += 1
                    found = served_with(images, log)
                    for block, letter in enumerate(found):
                        assert letter in run.model[block][oldest[block] :] or is_torn(letter, block, run, oldest), (
                            f"cut before event {position}, {style}, with log {log}: block {block} has {letter[:9]}"
                        )
        if position == len(run.journal):
            break
        replay.advance()
    assert detached < attached
    record_property("power cuts", cuts)
    record_property("places of power cuts", len(run.journal) + 1)
    record_property("runs with power cuts", 1)


def is_torn(page, block, run, oldest):
    """Whether it has sectors of versions that may be there: what was written to the origin directly is in no log."""
    allowed = run.model[block][oldest[block] :]
    return {page[at : at + 1] for at in range(0, len(page), 512)} <= set(allowed) and len(page) == PAGE_BYTES

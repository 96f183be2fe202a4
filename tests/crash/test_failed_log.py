# SPDX-License-Identifier: BSD-3-Clause
"""Power fails, or the process is killed, at any moment while another log takes the place of one that has failed.

The next server starts with the log that the origin's mark names. It has everything that was durable, and after a kill
everything that was acknowledged: always the volume as it stood at one moment.
"""

import os
import random

import pytest

from tests.crash.replay import Replay
from tests.crash.test_detach import BLOCKS, NEW, OLD, ORIGIN, Run, served_with
from tests.crash.workload import make_config
from tests.support.gated_origin import wait_until
from tests.support.recorded_ring import place
from tests.support.simulated_disk import STYLES, MemoryDisk
from wbcache_core.device.shared_memory import path_of
from wbcache_core.errors import LogFailedError
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.cache import Cache
from wbcache_core.tools.checker import examine
from wbcache_core.units import PAGE_BYTES

SEED = os.environ.get("WBCACHE_TEST_SEED", str(random.randrange(10**6)))


class OrderedRun(Run):
    """Knows the order of all writes, too."""

    def __init__(self, monkeypatch, **settings):
        self.numbers = [[0] for _ in range(BLOCKS)]
        """Of each block's versions, in the order of all writes."""
        self.count = 0
        super().__init__(monkeypatch, **settings)

    def write(self, letter, blocks, flushes=True):
        for block in blocks:
            self.count += 1
            self.numbers[block].append(self.count)
        super().write(letter, blocks, flushes)

    def assert_one_moment(self, found, oldest, what):
        """That these are the newest versions of all blocks after some write, and not older than the oldest allowed."""
        last, following = 0, self.count + 1
        for block, letter in enumerate(found):
            versions = self.model[block]
            assert letter in versions[oldest[block] :], f"{what}: block {block} has {letter[:9]}"
            at = versions.index(letter)
            last = max(last, self.numbers[block][at])
            if at + 1 < len(versions):
                following = min(following, self.numbers[block][at + 1])
        assert last < following, f"{what}: it has write {last}, and lacks {following}"


def fail_log(run, kind):
    """With a batch half-way to the origin, and writes that only memory has."""
    run.write(b"a", range(20))
    run.served.now.drain()
    run.write(b"b", range(5, 15))
    run.write(b"c", [7])
    run.disks[ORIGIN].faults.failing, run.disks[ORIGIN].faults.shorten = {"write"}, True
    run.served.now.begin_drain()
    wait_until(lambda: run.served.now.status()["errors"]["origin"])
    run.served.now.cancel_drain()
    run.disks[OLD].faults.failing = {kind}
    run.write(b"d", range(10, 30), flushes=False)
    run.write(b"e", [12, 7], flushes=False)
    run.served.now.volume.trim(2 * PAGE_BYTES, 0)
    for block in range(2):
        run.count += 1
        run.numbers[block].append(run.count)
        run.model[block].append(b"\0\0")
    with pytest.raises(LogFailedError):
        run.served.now.volume.flush()
    run.disks[ORIGIN].faults.failing = set()


def letters(pages):
    """The zeros of the trim are told from those of the beginning."""
    return [b"\0\0" if block < 2 and page == b"\0" else page for block, page in enumerate(pages)]


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_no_cut_loses_anything(monkeypatch, kind, record_property):
    print(f"seed {SEED}")
    run = OrderedRun(monkeypatch)
    fail_log(run, kind)
    began = len(run.journal)
    run.switch(run.served.attach, "/new", False, None, False)
    attached = len(run.journal)
    run.write(b"f", range(8, 40))
    run.write(b"g", range(3, 6), flushes=False)
    run.served.now.drain()
    run.served.stop()
    rng = random.Random(f"cuts {SEED}")
    replay = Replay(run.images, run.journal.events)
    cuts = 0
    while replay.position < len(run.journal):
        replay.advance()
        position = replay.position
        if position < began:
            continue
        oldest = run.oldest_at(position)
        named, _ = run.log_at(position)
        for style in ("none", "all", rng.choice(STYLES[2:])):
            with replay.after_cut(replay.survivors(rng, style)) as images:
                cuts += 1
                found = letters(served_with(images, named))
                run.assert_one_moment(found, oldest, f"cut before event {position}, {style}, with log {named}")
    assert began < attached < len(run.journal)
    record_property("power cuts", cuts)
    record_property("places of power cuts", len(run.journal) + 1 - began)
    record_property("runs with power cuts", 1)


class Dead:
    """What a process leaves that is killed here."""

    def __init__(self, run):
        self.images = [bytes(disk.content) for disk in run.disks]
        self.named, _ = run.log_at(len(run.journal))
        superblock = newest(read_slots(MemoryDisk(bytearray(self.images[self.named]))))
        self.path = path_of(superblock.uuid)
        self.ring = b""
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                self.ring = file.read()

    def read(self):
        """The volume, as the next server has it."""
        place(self.path, self.ring)
        log, origin = MemoryDisk(bytearray(self.images[self.named])), MemoryDisk(bytearray(self.images[ORIGIN]))
        try:
            assert examine(log, origin).findings == []
            config = make_config(ring_memory="shared")
            cache = Cache(config, origin, log)
            found = bytearray(cache.volume.size)
            cache.volume.read_into(found, 0)
            cache._ring_memory.close(is_empty=False)
            cache._close()
        finally:
            place(self.path, b"")
        pages = [bytes(found[at : at + PAGE_BYTES]) for at in range(0, len(found), PAGE_BYTES)]
        return [page[:1] if page == page[:1] * PAGE_BYTES else page for page in pages]


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_no_kill_loses_anything(monkeypatch, kind):
    """All that was acknowledged is there, also what no log had: in the ring, or in the log that got it."""
    run = OrderedRun(monkeypatch, ring_memory="shared")
    fail_log(run, kind)
    dead, put = [], run._put

    def marked(log, state):
        dead.append(Dead(run))
        put(log, state)
        dead.append(Dead(run))
        return True

    run._put, run.journal.before_event = marked, lambda: dead.append(Dead(run))
    run.switch(run.served.attach, "/new", False, None, False)
    run.journal.before_event = lambda: None
    dead.append(Dead(run))
    run.served.stop()
    everything = [len(versions) - 1 for versions in run.model]
    for number, one in enumerate(dead):
        run.assert_one_moment(letters(one.read()), everything, f"kill {number} of {len(dead)}, with log {one.named}")
    assert {one.named for one in dead} == {OLD, NEW}

# SPDX-License-Identifier: BSD-3-Clause
"""The log of an owner in memory, and a standby with an origin of its own, step by step: nothing runs by itself."""

from xxhash import xxh3_64_intdigest

from tests.support.shipped_log import ShippedLog, disk, superblock
from tests.support.simulated_disk import SimulatedDisk
from wbcache_core.flow.standby_destager import StandbyDestager
from wbcache_core.flow.standby_retention import StandbyRetention
from wbcache_core.format import peer_standing
from wbcache_core.format.fill_piece import FillPiece
from wbcache_core.format.origin_facts import NO_FACTS
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.superblock import encode
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.log.standby_log import Sender, StandbyLog
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.config import Config
from wbcache_core.server.standby_past import StandbyPast
from wbcache_core.shipping.joining import beginning, told
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

POLICY = Config(origin="/o", log="/l", destage_depth=1).policy(1000, 256)
BLOCKS = MIB >> PAGE_SHIFT
OLD = b"\xee" * PAGE_BYTES
"""What the disk had before."""


class StandbyPair:
    """The log of the standby has just begun."""

    def __init__(self, policy=POLICY):
        self.policy = policy
        self.owner = ShippedLog(superblock(has_own_origins=True))
        self.origin = SimulatedDisk(OLD * BLOCKS, "origin")
        self.origin_bytes = MIB
        self.device, self.marks = disk(), []
        self.restart()
        self.log.take_superblock(self.sender, memoryview(encode(beginning(self.owner.superblock))))
        self.lsn = self.owner.head

    def restart(self, style=None):
        if style:
            self.origin = SimulatedDisk(self.origin.crash(1, style), "origin")
            self.device = SimulatedDisk(self.device.crash(1, style), "log")
        slots = read_slots(self.device)
        own = OwnOrigin("origin", self.origin_bytes, NO_FACTS)
        self.log = StandbyLog(self.device, slots if newest(slots) else None, own)
        self.log.prepare()
        self.sender = Sender()
        self.log.state(self.sender)
        self.retention = StandbyRetention(self.log, self.policy)
        self.past = StandbyPast(self.log, self.device, self.origin, self.retention)
        self.destager = StandbyDestager(self.log, self.device, self.origin, self.retention, self.marks.append)

    def tell(self):
        """The owner's newest superblock."""
        self.log.take_superblock(self.sender, memoryview(encode(told(self.owner.superblock))))

    def commit(self, count, block=0):
        """So many pages from that block on; they are shipped, and durable."""
        for offset, content in self.owner.commit(count + 1, block=block):
            self.log.take_segment(self.sender, memoryview(content), offset, True)

    def say_safe(self, lsn, committed=0, everywhere=0):
        one = self.owner.superblock
        page = peer_standing.encode(
            Standing(
                one.uuid, one.epoch, 1, False, False, 1000, safe=lsn, committed=committed, everywhere=everywhere
            )
        )  # fmt: skip
        self.log.take_standing(self.sender, memoryview(page))

    def piece(self, block, count, first, end=None, content=b"\x77", is_zero=False, **changes):
        data = b"" if is_zero else content * (count << PAGE_SHIFT)
        one = self.owner.superblock
        piece = FillPiece(
            one.uuid, changes.pop("epoch", one.epoch), block, count, first, end or first,
            xxh3_64_intdigest(data) if data else 0, is_zero,
        )  # fmt: skip
        self.destager.take_piece(piece, memoryview(data))

    def unchanged(self, block, count, first, end):
        """The owner says that no LSN from first to end has written these blocks."""
        one = self.owner.superblock
        piece = FillPiece(one.uuid, one.epoch, block, count, first, end, 0, is_zero=False, is_unchanged=True)
        self.destager.take_piece(piece, memoryview(b""))

    def begin_at(self, lsn, place=60, **changes):
        """The owner's log does not reach back to this one, which begins anew there."""
        begins = self.owner.superblock.with_changes(
            destaged=lsn, destaged_place=place, destaged_previous=7, batch_end=lsn, committed=lsn, **changes
        )
        self.log.take_superblock(self.sender, memoryview(encode(beginning(begins))))

    def fill(self, first, end=None, blocks=BLOCKS, content=b"\x77"):
        for block in range(0, blocks, 64):
            self.piece(block, min(64, blocks - block), first, end, content)

    def destage(self):
        """Up to where it may."""
        while self.next_end():
            self.destager._destage()

    def next_end(self):
        """Where the next batch would end, 0 if there is none."""
        with self.log.lock:
            return self.destager._end_of_next_batch()[0]

    def page(self, block):
        return bytes(self.origin.content[block << PAGE_SHIFT : block + 1 << PAGE_SHIFT])

    @property
    def superblock(self):
        return self.log.superblock

# SPDX-License-Identifier: BSD-3-Clause
"""The parts of shipping_world.py: log devices, the link between the servers, and the owner."""

import dataclasses
import errno
import time
from bisect import bisect_left

from tests.support.simulated_disk import STYLES, SimulatedDisk
from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.errors import DeviceError, DeviceLostError, RequestError
from wbcache_core.flow.retention import Pins
from wbcache_core.format.epoch import NO_EPOCH
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.epochs import new_epoch
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import line_of, recover
from wbcache_core.log.standby_log import Sender
from wbcache_core.log.superblocks import SuperblockStore, newest, read_slots
from wbcache_core.log.takeover import FoundData, take_over
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.events import Events
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.server.config import Config
from wbcache_core.shipping.peer import PeerRules
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.units import MIB, PAGE_BYTES

LOG_BYTES = 4 * MIB
BLOCKS = 64
RING_BYTES = MIB
_POLICY = Config(origin="/o", log="/l").policy(1000, 256)


class PowerCut(BaseException):
    """The node whose disk this comes from is dead."""


class OwnerDied(BaseException):
    """Unwinds whatever the owner was doing."""


class Node:
    """A log device, and what of it is there after each start."""

    def __init__(self, name, rng):
        self.name = name
        self._rng = rng
        self.cut_in = None
        """Requests until the power goes, None for never."""
        self.blank()

    def _pause(self, kind):
        if self.cut_in is not None and kind != "read":
            self.cut_in -= 1
            if self.cut_in < 0:
                raise PowerCut(self.name)

    def die(self):
        """Of a power cut, or only the process: then all that was written is there."""
        style = self._rng.choice((*STYLES, "all", "all"))
        self.cut_in = None
        self.disk = self.disk.restart(self._rng.random(), style)

    def blank(self):
        """Another device in its place."""
        self.cut_in = None
        self.disk = SimulatedDisk(LOG_BYTES, self.name, pause=self._pause)


class Page:
    """In place of libnbd's buffer."""

    content = b""

    def to_bytearray(self):
        return bytearray(self.content)


class SimulatedLink:
    """In place of shipping.link.Link: a connection to World.standby_log. Messages arrive in order, or never."""

    def __init__(self, world):
        self._world = world
        self.sender = Sender()
        self.messages, self.replies = [], []
        self._answered = 0
        self.under_way = 0
        self.last_sign = time.monotonic()
        self.silent_for = 0.0
        self._is_broken = False
        self._state = None
        self.identity = ""

    def close(self):
        self._is_broken = True

    def break_off(self):
        self._is_broken = True

    def read_report(self):
        page = Page()
        self._send(("report", page))
        return page

    def read_state(self):
        self._send(("state",))
        while not self.answered():
            self.wait(0)
        return memoryview(self._state)

    def write(self, data, offset, durably):
        self._send(("write", data, offset, durably))

    def flush(self):
        self._send(("flush",))

    def _send(self, message):
        self.messages.append(message)
        self.under_way += 1

    def deliver(self):
        """The oldest message arrives at the standby."""
        message = self.messages.pop(0)
        try:
            reply = self._world.receive(self.sender, message)
        except (RequestError, DeviceError) as error:
            reply = error
        self.replies.append(reply)

    def deliver_reply(self):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            self._is_broken = True
            self._world.note_refusal(reply)
            return
        if reply is not None:
            self._state = reply
        self._answered += 1

    def wait(self, seconds):
        self._world.go_on(self)
        if self._is_broken:
            raise DeviceLostError("the connection was lost", errno.EIO)

    def answered(self):
        count, self._answered = self._answered, 0
        self.under_way -= count
        return count


class Owner:
    """A server on a log device: recovers it, begins an epoch, commits, destages, ships."""

    def __init__(self, world, node, takes_over):
        self.world, self.node, disk = world, node, node.disk
        slots = read_slots(disk)
        superblock = newest(slots)
        self.ring = RingBuffer(RING_BYTES)
        self._policy = dataclasses.replace(_POLICY, may_go_on=world.may_go_on)
        if superblock is None:
            self._format(disk)
        else:
            self._recover(disk, slots, superblock, takes_over)
        self.store = self._store
        self.batch = None
        """The end of a batch that has been announced and not finished."""
        self.pins = Pins(self.line, self.covered, self.store.current.batch_end, ())
        own_epoch = NO_EPOCH if takes_over else self._epoch_before
        self.shipping = Shipping(
            PeerRules(("peer",), 1e9, world.has_own_origins), self.line, self.table, disk, self.store,
            lambda: self.pins.floor, own_epoch, self._supersede, Events(), lambda *_: world.connect(),
        )  # fmt: skip
        self.peer = self.shipping.peers.all[0]
        self.shipper = self.shipping.shippers[0]

    def _format(self, disk):
        blank = Superblock(
            uuid=bytes(range(16)), sequence=1, log_bytes=LOG_BYTES, origin_bytes=MIB, origin_name="origin",
            samples=(0,) * 32, has_own_origins=self.world.has_own_origins,
        )  # fmt: skip
        first = blank.with_changes(**new_epoch(blank, 1, 0))
        self._epoch_before = NO_EPOCH
        self._store = SuperblockStore(disk, None, first)
        self._store.format(first)
        self.table, self.covered = SegmentTable(), CoveredLog(MIB)
        self.line = line_of(first, None, self.ring.pages, self._policy)
        end = LogEnd(0, 0, 0, Reading(0), first.epoch)
        self._finish(disk, end)

    def _recover(self, disk, slots, superblock, takes_over):
        assert superblock.is_copy == takes_over
        self._epoch_before = superblock.epoch
        segments = []
        found = recover(disk, LogReader(disk, superblock.data_pages, superblock.uuid), superblock, segments)
        for one in segments:
            # It may have died before it knew that they were durable.
            descriptor = one.descriptor
            self.world.ends[descriptor.end_lsn] = (descriptor.checksum, one.end_place, descriptor.generation)
        self._store = store = SuperblockStore(disk, slots)
        self.table, self.covered = found.table, found.covered
        self.line = line_of(superblock, found, self.ring.pages, self._policy)
        take_over(
            disk, store, FoundData(), found.end.place, oldest=self.line.destaged,
            oldest_place=self.line.destaged_place, committed=found.head, is_copy=False,
            **new_epoch(superblock, found.head, found.end.previous, takes_over),
        )  # fmt: skip
        self._finish(disk, found.end._replace(epoch=store.current.epoch))

    def _finish(self, disk, end):
        store, line = self._store, self.line
        line.reclaimed_place = store.reclaimed_place
        level = 1 if self.world.rng.random() < 0.2 else None
        self.writer = LogWriter(
            disk, line.data_pages, store.current.uuid, self.ring, end, level, store.log_sync
        )
        line.admit_writers()

    def _supersede(self, why):
        raise AssertionError(f"nobody took over: {why}")

    def commit(self):
        """A generation of one or more segments, if there is room."""
        rng, line = self.world.rng, self.line
        counts = [rng.choice((1, 2, 5, 20, 60)) for _ in range(rng.choice((1, 1, 2, 3)))]
        if line.head + sum(counts) + len(counts) > line.limit:
            return
        pending = []
        for count in counts:
            segment = PendingSegment(line.head)
            for lsn in range(line.head + 1, line.head + 1 + count):
                block = self.world.any_block()
                segment.add_pages(block, 1)
                stamp = self.world.new_stamp()
                self.ring.page(lsn)[:] = stamp.to_bytes(8, "little") * (PAGE_BYTES // 8)
                self.world.lineage.append((lsn, block, stamp))
            line.head = segment.end_lsn
            pending.append(segment)
        self.writer.prepare(pending, line.committed, line.reusable_place)
        self.shipping.offer(self.writer)
        for _ in range(rng.choice((0, 0, 1, 3))):
            # It goes out while the local write is under way.
            self.world.network()
        if rng.random() >= self.world.slow_write_rate:
            self.write()

    def write(self):
        """What has been prepared goes to the log."""
        line = self.line
        for segment in self.writer.write():
            descriptor = segment.descriptor
            self.table.append(descriptor.first_lsn, segment.place, descriptor.encoding, segment.page_sums)
            self.covered.append(descriptor)
            self.world.ends[descriptor.end_lsn] = (descriptor.checksum, segment.end_place, descriptor.generation)
            last = descriptor.end_lsn
        with line.lock:
            line.note_committed(last, self.writer.end.place)
        self.shipping.note_commit()

    def destage(self):
        """One step of it: announce, write some or all of the batch, or finish."""
        line, store, rng = self.line, self.store, self.world.rng
        if self.batch is None:
            with line.lock:
                limit = self.pins.limit()
                if limit <= line.destaged:
                    return
                between = [lsn for lsn in self.world.ends if line.destaged < lsn <= limit]
                end = rng.choice([*between, limit, limit])
                self.pins.pass_to(end)
            self.batch = end
            self._announce(end)
            return
        if not self.shipping.is_announced():
            return
        lineage = self.world.lineage
        begin, end = (bisect_left(lineage, (lsn,)) for lsn in (line.destaged, self.batch))
        writes = {block: (lsn, stamp) for lsn, block, stamp in lineage[begin:end]}
        self.world.origin_touched = max(self.world.origin_touched, self.batch)
        for block, (_, stamp) in writes.items():
            if rng.random() < 0.5:
                self.world.origin[block] = stamp
        if rng.random() < 0.5:
            return
        for block, (_, stamp) in writes.items():
            self.world.origin[block] = stamp
        checksum, place, generation = self.world.ends[self.batch]
        store.write(
            destaged=self.batch, destaged_place=place, destaged_previous=checksum, destaged_generation=generation,
            destaged_time_ns=clock.read().wall_ns, batch_end=max(self.batch, store.current.batch_end),
            committed=line.committed,
        )  # fmt: skip
        with line.lock:
            line.note_destaged(self.batch, place)
            self.covered.records.drop_below(self.batch)
        self.batch = None

    def _announce(self, end):
        """The origin is about to get what is below."""
        if self.store.current.batch_end < end:
            self.store.write(batch_end=end, committed=self.line.committed)

    def reclaim(self):
        """Give up all clean log space."""
        line = self.line
        with line.lock:
            line.oldest = line.destaged
            self.table.drop_below(line.oldest)
        for _ in range(2):
            self.store.write(oldest=line.destaged, oldest_place=line.destaged_place, committed=line.committed)
        with line.lock:
            line.reclaimed_place = self.store.reclaimed_place
            line.refresh_limits()

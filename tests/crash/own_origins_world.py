# SPDX-License-Identifier: BSD-3-Clause
"""The schedules of shipping_world.py with an origin at each node: the standby destages too, and is filled.

Its destager and the owner's filler take a step when the schedule says so, instead of having threads.
"""

import dataclasses
import errno
from unittest import mock

from tests.crash.shipping_nodes import BLOCKS, Node, Owner, OwnerDied, PowerCut
from tests.crash.shipping_world import World
from tests.support.simulated_disk import STYLES, SimulatedDisk
from wbcache_core import clock
from wbcache_core.errors import DeviceError, DeviceLostError, OutsideWindowError, RequestError, SnapshotEndedError
from wbcache_core.flow.region_notes import with_batch
from wbcache_core.flow.standby_destager import StandbyDestager
from wbcache_core.flow.standby_retention import StandbyRetention
from wbcache_core.format import changed_regions, fill_piece
from wbcache_core.format.origin_facts import NO_FACTS
from wbcache_core.format.superblock import NO_FILL
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.server.config import Config
from wbcache_core.server.standby_past import StandbyPast
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT

ORIGIN_BYTES = MIB
_POLICY = dataclasses.replace(Config(origin="/o", log="/l").policy(1000, 256), destage_depth=1)
_PIECES = 16, 32, 64, 256
"""Blocks, of 256 that the origin has: from one after another to all in one."""
_LIKELY = 0.4
_REST = bytes(ORIGIN_BYTES - (BLOCKS << PAGE_SHIFT))


def page_of(stamp):
    return memoryview(stamp.to_bytes(8, "little") * (PAGE_BYTES // 8))


class OwnOriginNode(Node):
    """With an origin, which fails together with the log."""

    def __init__(self, name, rng):
        self.origin = None
        super().__init__(name, rng)
        self._put(bytes(ORIGIN_BYTES))

    def _put(self, image):
        self.origin = SimulatedDisk(image, self.name, pause=self._pause)

    def die(self):
        style = self._rng.choice((*STYLES, "all", "all"))
        super().die()
        self.origin = self.origin.restart(self._rng.random(), style)

    def blank(self):
        super().blank()
        # The disk that replaces it has been in use for something else.
        self._put(self._rng.randbytes(64) * (ORIGIN_BYTES // 64))

    def blocks(self):
        """The stamp in each block."""
        image = self.origin.content
        return [int.from_bytes(image[at : at + 8], "little") for at in range(0, BLOCKS << PAGE_SHIFT, PAGE_BYTES)]


class Source:
    """The owner's volume, with everything that was written."""

    size = ORIGIN_BYTES

    def __init__(self, world):
        self._world = world

    def read_into(self, buffer, offset):
        """A part of it may be older than something that is written meanwhile, and the rest newer."""
        first, end = offset >> PAGE_SHIFT, offset + len(buffer) >> PAGE_SHIFT
        middle = self._world.rng.randint(first, end)
        self._read_blocks(buffer, first, first, middle)
        if middle < end and first < BLOCKS:
            self._world.write_during_read()
        self._read_blocks(buffer, first, middle, end)

    def _read_blocks(self, buffer, first, start, end):
        newest_stamps = {block: stamp for _, block, stamp in self._world.lineage}
        for block in range(start, end):
            at = block - first << PAGE_SHIFT
            buffer[at : at + PAGE_BYTES] = page_of(newest_stamps.get(block, 0))

    def extents(self, count, offset, only_one=False):
        return [(offset, count, False, False)]


class FillLink:
    """In place of the filler's connection: pieces that are under way, and which of them have arrived. They are carried
    out in any order, and their answers count in theirs."""

    def __init__(self):
        self.pieces = {}
        self.is_broken = False
        self._count = 0

    def write(self, data, offset, durably):
        assert offset == 0 and not durably
        if self.is_broken:
            raise DeviceLostError("the connection was lost", errno.EIO)
        self.pieces[self._count] = memoryview(data)
        self._count += 1


class Destager(StandbyDestager):
    """Something comes from the owner after what has been written to the origin is durable, and before a superblock says
    so: its threads wait for no other."""

    def __init__(self, world, *parts):
        super().__init__(*parts)
        self._world = world

    def _changes(self, *batch):
        self._world.arrive()
        return super()._changes(*batch)

    def _note(self, *copied):
        self._world.arrive()
        super()._note(*copied)


class OwnOriginOwner(Owner):
    """It destages to the origin of its node."""

    def __init__(self, world, node, takes_over):
        super().__init__(world, node, takes_over)
        self.shipping.fill_from(Source(world))
        self.filler = self.shipper.filler
        self.filler.most_blocks, self.shipper.report_seconds = world.piece_blocks, 0.0
        self.fill_link, self.wanted, self.block = FillLink(), None, 0
        self._is_sending = False
        self._is_without_map = world.rng.random() < 0.3
        """For the filler, as with a third node whose map does not reach back so far."""

    def _announce(self, end):
        line, store = self.line, self.store
        known, everywhere = store.regions(), self.shipping.peers.everywhere()
        records = self.covered.records.between(line.destaged, end)
        regions = with_batch(known, store.current, records, end, everywhere)
        store.write(regions=regions, batch_end=max(end, store.current.batch_end), committed=line.committed)

    def _write_origin(self, writes):
        for block, (_, stamp) in writes.items():
            self.node.origin.write([page_of(stamp)], block << PAGE_SHIFT)

    def destage(self):
        line, store, rng = self.line, self.store, self.world.rng
        if self.batch is None:
            super().destage()
            return
        writes = {block: (lsn, stamp) for lsn, block, stamp in self.world.lineage if line.destaged <= lsn < self.batch}
        self._write_origin({block: write for block, write in writes.items() if rng.random() < 0.5})
        if rng.random() < 0.5:
            return
        self._write_origin(writes)
        self.node.origin.sync()
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

    def fill(self):
        """One step of it: a piece is sent, if one is wanted, and answers come."""
        filler = self.filler
        if self.world.rng.random() < 0.5:
            self.take_answers()
        if filler._wanted != self.wanted:
            self.break_off()
            self.wanted, self.block = filler._wanted, filler._done_to
        if self.wanted is None or self.wanted.fill is None:
            return
        if self.block >= filler._block_count or len(filler._under_way) >= 4:
            return
        self._is_sending = True
        try:
            wanted = self.wanted._replace(fill=NO_FILL) if self._is_without_map else self.wanted
            self.block = filler._send(self.fill_link, self.block, wanted)
        except DeviceLostError:
            self._connect_again()
        finally:
            self._is_sending = False

    def take_answers(self):
        """Those of the oldest pieces. Before, they may be lost with the connection."""
        pieces = self.fill_link.pieces
        while pieces and pieces[next(iter(pieces))] is None:
            del pieces[next(iter(pieces))]
            done_to = self.filler._under_way.popleft().end_block
            if self.filler._wanted == self.wanted:
                self.filler._done_to = done_to

    def break_off(self):
        """The filler's connection is made anew; what is under way may arrive yet."""
        self.world.late_pieces += filter(None, self.fill_link.pieces.values())
        self.fill_link.pieces = {}
        self.fill_link.is_broken = True
        if not self._is_sending:
            self._connect_again()

    def _connect_again(self):
        self.fill_link = FillLink()
        self.filler._under_way.clear()
        if self.wanted:
            self.filler._look_again(self.wanted)
        self.block = self.filler._done_to


class OwnOriginsWorld(World):
    """Invariant: an origin is what the log of its node says, unless that says that it is not."""

    node_class, owner_class, has_own_origins = OwnOriginNode, OwnOriginOwner, True

    def __init__(self, seed, steps=400):
        super().__init__(seed, steps)
        self._later_fault_rate = self.rng.choice((0.0, 0.01, 0.03, 0.06))
        self.fault_rate = self.rng.choice((0.0, self._later_fault_rate))
        """Until the standby has been filled for the first time: so most schedules get there."""
        self.standby_node.blank()
        self.piece_blocks = self.rng.choice(_PIECES)
        self._break_rate = self.rng.choice((0.0, 0.02, 0.06))
        """Of the filler's connection, with the answers: what they were for comes again."""
        self.late_pieces = []
        self._place = 0, BLOCKS
        """Where most writes go for a while: the first block, and how many there are."""
        self.destager = None
        self._is_ahead = False
        """A piece has come between the origin's last sync and the superblock about it."""
        self.past, self.opened = None, []
        """The standby's past, and what is open of it: each with what it has to be."""
        self.counts |= dict.fromkeys(("pieces", "unchanged", "batches", "filled", "moments", "looks"), 0)

    def _new_log(self, disk, slots):
        log = StandbyLog(disk, slots, OwnOrigin("origin", ORIGIN_BYTES, NO_FACTS))
        origin, retention = self.standby_node.origin, StandbyRetention(log, _POLICY)
        self.destager = Destager(self, log, disk, origin, retention, lambda _: None)
        self.destager.reach_blocks = 8
        self.past, self.opened = StandbyPast(log, disk, origin, retention), []
        return log

    def _is_complete(self):
        superblock = self.standby_log and self.standby_log.superblock
        return bool(superblock and not superblock.is_inconsistent)

    def _act(self):
        draw = self.rng.random()
        if draw < 0.55:
            super()._act()
        elif draw < 0.7:
            self._at_standby(self._destage_standby)
        elif draw < 0.85:
            self.owner.fill()
        elif draw < 1 - self._break_rate:
            self._at_standby(self._deliver_piece)
        else:
            self.owner.break_off()
        if self.rng.random() < 0.05:
            self.check_origins()
        if self.rng.random() < 0.1:
            self._at_standby(self._look_back)

    def run(self):
        # Regions of four blocks.
        with mock.patch.object(changed_regions, "_SMALLEST_SHIFT", 2):
            super().run()

    def any_block(self):
        first, count = self._place
        return self.rng.randrange(BLOCKS) if self.rng.random() < 0.01 else first + self.rng.randrange(count)

    def _without_link(self):
        # The filler ends its connection then.
        self.owner.break_off()
        if self.rng.random() < 0.5:
            self.counts["left out"] += self.owner.shipping.peers.leave_out(self._long_silent())
        if not self.owner.peer.counts and self.rng.random() < 0.6:
            self._be_absent()
        super()._without_link()

    def _be_absent(self):
        """So much happens without the standby that the owner's log does not reach back to it any more."""
        try:
            for _ in range(self.rng.choice((3, 10, 20))):
                self.steps -= 1
                if self.rng.random() < 0.3:
                    count = self.rng.choice((2, 8, BLOCKS))
                    self._place = self.rng.randrange(BLOCKS - count + 1), count
                if not self.owner.writer.is_prepared:
                    self.owner.commit()
                    self.counts["commits"] += 1
                for _ in range(3):
                    self.owner.destage()
                self.owner.reclaim()
        except (OwnerDied, PowerCut):
            self._replace_owner()

    def write_during_read(self):
        """The owner commits, perhaps, while it reads what it copies."""
        if self.rng.random() < 0.3 and not (self.is_finishing or self.owner.writer.is_prepared):
            self.owner.commit()
            self.counts["commits"] += 1

    def network(self, always=False):
        super().network(always)
        if self.is_finishing:
            self.owner.fill()
            self._at_standby(self._deliver_piece)
            self._at_standby(self._destage_standby)

    def _look_back(self):
        """Open a moment at the standby, or read or close one that is open."""
        if len(self.opened) < 3 and self.rng.random() < 0.5:
            self._open_moment()
        elif self.opened:
            export, content = self.rng.choice(self.opened)
            if self._is_as(export, content) and self.rng.random() < 0.7:
                return
            self.opened.remove((export, content))
            export.close()

    def _open_moment(self):
        oldest, newest_shown, _ = self.past.window_ends()
        if newest_shown is None:
            return
        number = self.rng.randint(oldest.number, newest_shown.number)
        try:
            export = self.past.open_export(str(number))
        except OutsideWindowError as error:
            raise AssertionError(f"generation {number} is not to be had: {error}") from error
        (moment,) = self.past.resolve(str(number))
        ends = [end for end, (_, _, generation) in self.ends.items() if generation == number]
        assert not ends or max(ends) == moment.end_lsn, f"{moment} is not the end of a commit: {ends}"
        content = [0] * BLOCKS
        for lsn, block, stamp in self.lineage:
            if lsn < moment.end_lsn:
                content[block] = stamp
        self.counts["moments"] += 1
        self.opened.append((export, content))

    def _is_as(self, export, content):
        """Whether it is still open, and then it is right."""
        image = bytearray(BLOCKS << PAGE_SHIFT)
        try:
            export.read_into(image, 0)
        except SnapshotEndedError:
            return False
        except DeviceError as error:
            self.note_refusal(error)
            return False
        found = [int.from_bytes(image[at : at + 8], "little") for at in range(0, len(image), PAGE_BYTES)]
        assert found == content, f"{export.description} is {found}, not {content}"
        self.counts["looks"] += 1
        return True

    def _destage_standby(self):
        log, destager = self.standby_log, self.destager
        try:
            with log.lock:
                log.check_usable()
                destager.reclaim()
                end, _ = destager._end_of_next_batch()
            if end:
                was = log.superblock.is_inconsistent
                destager._destage()
                self.counts["batches"] += 1
                self._after_note(was)
            elif destager._has_news():
                was = log.superblock.is_inconsistent
                destager._note_filled()
                self._after_note(was)
        except (RequestError, DeviceError) as error:
            self.note_refusal(error)

    def _after_note(self, was_inconsistent):
        """A superblock of the standby says what its origin has. It is looked at, or somebody dies, most likely when
        more has been copied than that can say, or than the owner has in its log."""
        superblock, is_ahead, self._is_ahead = self.standby_log.superblock, self._is_ahead, False
        if was_inconsistent and not superblock.is_inconsistent:
            self.counts["filled"] += 1
            self.check_origins()
            self.fault_rate = self._later_fault_rate
        if self.is_finishing or not self.fault_rate:
            return
        if self.rng.random() < (_LIKELY if is_ahead else self.fault_rate):
            raise PowerCut(self.standby_node.name)
        if superblock.fill.lsn > self.owner.line.committed and self.rng.random() < _LIKELY:
            raise OwnerDied

    def arrive(self):
        """At the standby, perhaps, while it destages."""
        draw = self.rng.random()
        if draw < 0.2:
            self._is_ahead |= self._deliver_piece()
        elif draw < 0.4 and self.link and self.link.messages:
            self.link.deliver()

    def _deliver_piece(self):
        """One of those under way arrives, or a late one. Returns whether it is taken."""
        late = self.late_pieces and self.rng.random() < 0.3
        pieces = self.owner.fill_link.pieces
        if late:
            data = self.late_pieces.pop(0)
        elif here := [number for number, piece in pieces.items() if piece]:
            number = self.rng.choice(here)
            data = pieces[number]
        else:
            return False
        piece = fill_piece.decode(data[:PAGE_BYTES])
        if not late:
            self._check_waited_for(piece)
        try:
            self.destager.take_piece(piece, data[PAGE_BYTES:])
            self.counts["pieces"] += 1
            self.counts["unchanged"] += piece.is_unchanged
        except (RequestError, DeviceError) as error:
            if not late:
                self.note_refusal(error)
                self.owner.break_off()
            return False
        if not late:
            pieces[number] = None
        if not self.is_finishing and self.rng.random() < self.fault_rate:
            raise PowerCut(self.standby_node.name)
        return True

    def _check_waited_for(self, piece):
        """The standby has not destaged past a piece that is under way."""
        superblock = self.standby_log.superblock
        if piece.is_unchanged:
            return
        if superblock and superblock.is_inconsistent and superblock.epoch == piece.epoch:
            end = superblock.batch_end
            assert end <= piece.first_lsn, f"a piece has LSN {piece.first_lsn}, and the origin is at {end}"

    def _kill_standby(self):
        self.owner.break_off()
        super()._kill_standby()
        self.check_origins()

    def _replace_owner(self):
        self.owner.break_off()
        super()._replace_owner()
        self.check_origins()

    def _check_origin(self):
        _, committed = self.standby_log.cursors
        touched = self.owner.store.current.batch_end
        assert touched <= committed, f"the owner's origin has LSN {touched}, the standby {committed}"

    def _origin_of(self, node, head, superblock):
        assert not superblock.is_inconsistent, "who takes over has an origin that is no state of the volume"
        return node.blocks()

    def check_origins(self):
        """Each is as its log says. Blocks beyond those that are written are zeros."""
        for node in (self.owner_node, self.standby_node):
            superblock = newest(read_slots(node.disk))
            if superblock is None or superblock.is_inconsistent:
                continue
            before, batch = [0] * BLOCKS, [set() for _ in range(BLOCKS)]
            for lsn, block, stamp in self.lineage:
                if lsn < superblock.destaged:
                    before[block] = stamp
                elif lsn < superblock.batch_end:
                    batch[block].add(stamp)
            assert node.origin.content[BLOCKS << PAGE_SHIFT :] == _REST
            for block, stamp in enumerate(node.blocks()):
                allowed = {before[block]} | batch[block]
                assert stamp in allowed, f"block {block} of {node.name} has {stamp}, not {allowed}"

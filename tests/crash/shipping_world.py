# SPDX-License-Identifier: BSD-3-Clause
"""An owner and its standby, as the real code has them, over simulated disks and a simulated network, from a seed.

The shipper's own loop runs; whenever it waits, the world goes on a little: the owner commits, destages and gives up
log space, messages arrive or their connection breaks, servers are killed and disks lose power. Everything happens in
one thread, so a seed replays a schedule.

What is checked: see check_takeover() and World.finish().
"""

import random
import time

from tests.crash.shipping_nodes import BLOCKS, Node, Owner, OwnerDied, PowerCut, SimulatedLink
from tests.crash.shipping_speed import quick
from tests.support.hot_log_check import check_hot_log
from wbcache_core.errors import PartedError, SupersededError, WbcacheError
from wbcache_core.format.peer_standing import is_standing
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.shipping.peer import UP_TO_DATE


class World:
    """The first node is the owner at first. `lineage` has every page of the volume's present history as (LSN, block,
    stamp), `ends` each segment's end with (checksum, position after it, generation). `ended` has the lineage of each
    epoch whose owner was started again and had lost the end of it: a standby that has not heard of the next epoch yet
    may have that end, and may take over with it, since nothing that came after it is acknowledged at the peer."""

    node_class, owner_class, has_own_origins = Node, Owner, False

    def __init__(self, seed, steps=150):
        self.rng = random.Random(seed)
        self.steps = steps
        self.may_go_on = self.rng.random() < 0.4
        self.fault_rate = self.rng.choice((0.0, 0.01, 0.04))
        self.slow_write_rate = self.rng.choice((0.0, 0.3))
        """Of the owner's commits: they go out, and the node does other things, before they are in its own log."""
        self.lineage, self.ends, self.ended = [], {}, {}
        self.origin, self.origin_touched = [0] * BLOCKS, 1
        self._stamp = 0
        self.acknowledged = {}
        """By the end of the segment: its checksum, and whether the peer counted then."""
        self._acknowledged_to = 0
        """Up to where `acknowledged` has everything that `ends` has."""
        self.counts = dict.fromkeys(("commits", "cuts", "takeovers", "told", "given up", "restarts", "left out"), 0)
        nodes = [self.node_class(name, self.rng) for name in ("first log", "second log")]
        self.owner_node, self.standby_node = nodes
        self.owner = None
        self.standby_log = None
        self.link = None
        self.late = []
        """Links that are broken, with messages that may still arrive."""
        self.is_finishing = False
        self.refusals = []
        self.counted_before = True
        self.is_eligible = False
        """The standby was up to date and has not been left out since: somebody would let it take over."""

    def new_stamp(self):
        self._stamp += 1
        return self._stamp

    def any_block(self):
        """One that is written."""
        return self.rng.randrange(BLOCKS)

    def note_refusal(self, error):
        self.refusals.append(str(error))

    def run(self):
        """The whole schedule. AssertionError says what is wrong."""
        with quick():
            self._start_owner(takes_over=False)
            self._start_standby()
            while self.steps > 0:
                self._serve()
            self.is_finishing = True
            self.finish()

    def _serve(self):
        try:
            self.owner.shipper.serve()
        except OwnerDied:
            self._replace_owner()
        except PowerCut:
            self._replace_owner()
        except SupersededError as error:
            raise AssertionError(f"nobody took over: {error}") from None
        except WbcacheError as error:
            self._decide_about(error)
            peer = self.owner.peer
            self.owner.shipping.peers.note(peer, state="lost", problem=str(error))
            if not peer.silent_since:
                peer.silent_since = 1e-9
            self._keep_late(self.link)
            self.link = None
            self._without_link()

    def _decide_about(self, error):
        """Somebody may look at a tail that the owner lacks, and give it up."""
        log = self.standby_log
        if isinstance(error, PartedError) and log and self.rng.random() < 0.7:
            log._given_up_from = log.parts_at
            self.counts["given up"] += bool(log.parts_at)

    def _without_link(self):
        """There is no connection for a while."""
        try:
            for _ in range(self.rng.choice((0, 1, 5))):
                self.steps -= 1
                self._act()
        except (OwnerDied, PowerCut):
            self._replace_owner()

    def connect(self):
        if self.standby_log is None:
            self._start_standby()
        self.link = SimulatedLink(self)
        return self.link

    def _keep_late(self, link):
        if link and link.messages and self.rng.random() < 0.5:
            self.late.append(link)

    def go_on(self, link):
        """The shipper waits: something happens."""
        self.steps -= 1
        if self.is_finishing:
            self.network(always=True)
            if link.sender.has_joined and self._is_complete():
                self.owner.shipper._finish_at = time.monotonic() + 1e9
            assert self.steps, "the peer does not get everything"
            return
        if self.steps < -1000:
            raise AssertionError("the schedule does not end")
        if self.steps <= 0:
            link.break_off()
            return
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            self._act()
            self._note_acknowledged()

    def _is_complete(self):
        """Whether the standby lacks nothing that takes its time."""
        return True

    def _act(self):
        """One event of the nodes or the network."""
        rng = self.rng
        if rng.random() < self.fault_rate:
            self._fault()
            return
        act = rng.random()
        if act < 0.25:
            if self.owner.writer.is_prepared:
                if rng.random() < 0.4:
                    self.owner.write()
                return
            self.owner.commit()
            self.counts["commits"] += 1
        elif act < 0.4:
            self.owner.destage()
        elif act < 0.45:
            self.owner.reclaim()
        else:
            self.network()
        if rng.random() < 0.05:
            self._check_hot_log()

    def _check_hot_log(self):
        if self.standby_log:
            check_hot_log(self.standby_log, self.standby_node.disk, BLOCKS)

    def network(self, always=False):
        """A message arrives, or a reply."""
        link, rng = self.link, self.rng
        if self.late and rng.random() < 0.2:
            late = self.late[-1]
            if late.messages and self.standby_log:
                self._at_standby(late.deliver)
            else:
                self.late.remove(late)
        if not link:
            return
        for _ in range(8 if always else 1):
            if link.messages and (always or rng.random() < 0.6):
                self._at_standby(link.deliver)
            if link.replies and (always or rng.random() < 0.7):
                link.deliver_reply()

    def _at_standby(self, work):
        """Something that the standby does; it may lose its power meanwhile."""
        if self.standby_log is None:
            if self.link:
                self.link.break_off()
            return
        try:
            work()
        except PowerCut as cut:
            if str(cut) != self.standby_node.name:
                raise
            self._kill_standby()

    def _kill_standby(self):
        self.counts["cuts"] += 1
        self.standby_log = None
        self.standby_node.die()
        if self.link:
            self.link.break_off()
            self._keep_late(self.link)

    def _fault(self):
        rng = self.rng
        kind = rng.randrange(9 if self.may_go_on else 5)
        if kind == 0 and self.link:
            self.link.break_off()
        elif kind == 1:
            self._kill_standby()
        elif kind == 2:
            raise OwnerDied
        elif kind == 3:
            self.standby_node.cut_in = rng.randrange(8)
        elif kind == 4:
            self.owner_node.cut_in = rng.randrange(8)
        elif self.owner.shipping.peers.leave_out(self._long_silent()):
            self.counts["left out"] += 1

    def _long_silent(self):
        """The peer, which has been silent for ever if it is silent now."""
        peer = self.owner.peer
        if peer.silent_since:
            peer.silent_since = -2e9
        return peer

    def receive(self, sender, message):
        """The standby carries out a request; returns the state for a read."""
        log = self.standby_log
        if message[0] == "state":
            return log.state(sender)
        if message[0] == "report":
            message[1].content = log.report(sender)
            return None
        if message[0] == "flush":
            log.flush(sender)
        elif message[2] == 0 and is_standing(memoryview(message[1])):
            log.take_standing(sender, memoryview(message[1]))
        elif message[2] == 0:
            log.take_superblock(sender, memoryview(message[1]))
        else:
            log.take_segment(sender, memoryview(message[1]), message[2], message[3])
        return None

    def _is_told_complete(self):
        """The standby knows that it may take over, and the owner waits for it."""
        standing = self.standby_log and self.standby_log.standing
        return bool(standing and standing.is_complete and not standing.may_be_left_out and self._is_complete())

    def _note_acknowledged(self):
        """What `flush=peer` would answer now."""
        self._note_eligible()
        line = self.owner.line
        if self.standby_log and (self.is_eligible or (self.owner.peer.counts and not self.counted_before)):
            self._check_origin()
        self.counted_before = self.owner.peer.counts
        limit = min(line.committed, line.peers_committed)
        if limit <= self._acknowledged_to:
            return
        self._acknowledged_to = limit
        for end in [end for end in self.ends if end <= limit and end not in self.acknowledged]:
            self.acknowledged[end] = (self.ends[end][0], self.owner.peer.counts)

    def _blank_standby(self):
        self.standby_log = None
        self.standby_node.blank()
        self.is_eligible = False

    def _check_origin(self):
        """It is not ahead of a standby that may take over, or that counts from now on."""
        superblock, (_, committed) = self.standby_log.superblock, self.standby_log.cursors
        touched, announced = self.origin_touched, superblock.batch_end if superblock else 1
        assert touched <= committed, f"the origin has LSN {touched}, the standby {committed}"
        assert touched <= announced, f"the origin has LSN {touched}, the standby knows of {announced}"

    def _note_eligible(self):
        peer = self.owner.peer
        self.is_eligible = peer.counts and (self.is_eligible or peer.state == UP_TO_DATE)

    def _start_standby(self):
        disk = self.standby_node.disk
        while True:
            slots = read_slots(disk)
            log = self._new_log(disk, slots if newest(slots) else None)
            try:
                log.prepare()
            except PowerCut:
                self.standby_node.die()
                disk = self.standby_node.disk
                continue
            self.standby_log = log
            return

    def _new_log(self, disk, slots):
        return StandbyLog(disk, slots)

    def _start_owner(self, takes_over):
        if self.owner:
            self.owner.shipping.finish(0.0)
        while True:
            try:
                self.owner = self.owner_class(self, self.owner_node, takes_over)
                return
            except PowerCut:
                self.owner_node.die()
                slots = newest(read_slots(self.owner_node.disk))
                takes_over = bool(slots and slots.is_copy)

    def _replace_owner(self):
        """The owner is dead. It comes back, or, if the standby has everything, that takes over and it becomes the
        standby, with a blank log."""
        self._note_eligible()
        self._keep_late(self.link)
        self.link = None
        self.owner_node.die()
        is_told = self._is_told_complete()
        if (self.is_eligible or is_told) and self.rng.random() < 0.6:
            self.counts["told"] += is_told
            self._check_hot_log()
            self.standby_log = None
            self.standby_node.die()
            self.late.clear()
            self.lineage = self.check_takeover(self.standby_node, only_counted=True)
            self.ends.clear()
            self.owner_node, self.standby_node = self.standby_node, self.owner_node
            if self.rng.random() < 0.5:
                self._blank_standby()
            self.is_eligible = False
            self.counts["takeovers"] += 1
            self._start_owner(takes_over=True)
            self._start_standby()
        else:
            self.ended[self.owner.store.current.epoch] = list(self.lineage)
            self.check_takeover(self.owner_node, only_counted=False)
            self.counts["restarts"] += 1
            self._start_owner(takes_over=False)
        self._forget_beyond(self.owner.line.head)
        self.counted_before = True

    def _forget_beyond(self, head):
        """What no log has any more."""
        self._acknowledged_to = 0
        self.lineage = [entry for entry in self.lineage if entry[0] < head]
        self.ends = {end: facts for end, facts in self.ends.items() if end <= head}
        self.acknowledged = {end: facts for end, facts in self.acknowledged.items() if end <= head}

    def check_takeover(self, node, only_counted):
        """A server that starts with that log and the origin as they are has everything acknowledged, and the volume as
        it stood at one moment. Returns the lineage that it goes on with."""
        disk = node.disk
        superblock = newest(read_slots(disk))
        if superblock is None:
            assert not any(counted or not only_counted for _, counted in self.acknowledged.values()), "lost everything"
            assert self.origin_touched == 1
            return []
        segments = []
        found = recover(disk, LogReader(disk, superblock.data_pages, superblock.uuid), superblock, segments)
        ends = {one.descriptor.end_lsn: one.descriptor.checksum for one in segments}
        for end, (checksum, counted) in self.acknowledged.items():
            if counted or not only_counted:
                assert end <= found.head, f"LSN {end} was acknowledged, and the log ends at {found.head}"
                if end > superblock.destaged:
                    assert ends.get(end) == checksum, f"another segment ends at LSN {end} than the acknowledged one"
        volume = self._origin_of(node, found.head, superblock)
        expected = [0] * BLOCKS
        lineage = self.ended.get(superblock.epoch, self.lineage)
        stamps = {lsn: stamp for lsn, _, stamp in lineage}
        for lsn, block, stamp in lineage:
            if lsn < found.head:
                expected[block] = stamp
        for block in range(BLOCKS):
            lsn = found.locations.get(block) & (1 << 56) - 1
            if lsn:
                volume[block] = stamps[lsn]
        assert volume == expected, "the volume is not as it stood at any moment"
        return lineage

    def _origin_of(self, node, head, superblock):
        """What is on the origin that a log belongs to."""
        assert self.origin_touched <= head, f"the origin has LSN {self.origin_touched}, the log {head}"
        assert self.origin_touched <= superblock.batch_end, "the origin has a batch that this log does not announce"
        return list(self.origin)

    def finish(self):
        """Without faults the peer gets everything."""
        self.owner_node.cut_in = self.standby_node.cut_in = None
        owner, peer = self.owner, self.owner.peer
        if owner.writer.is_prepared:
            owner.write()
        for _ in range(4):
            self.steps = 3000
            owner.shipper._finish_at = 0.0
            try:
                owner.shipper.serve()
                break
            except WbcacheError as error:
                problem = error
                if isinstance(error, PartedError):
                    self.standby_log._given_up_from = self.standby_log.parts_at
        else:
            raise AssertionError(f"the peer does not get everything: {problem}; {self.refusals[-3:]}")
        assert peer.committed == owner.line.committed
        assert peer.sequence == owner.store.current.sequence
        if not peer.counts:
            assert owner.shipping.peers.let_in(peer), "the peer cannot be let in"
        self.check_takeover(self.standby_node, only_counted=True)
        owner.shipping.finish(0.0)
        # All of these know the world.
        self.owner = self.link = self.standby_log = None
        self.late.clear()

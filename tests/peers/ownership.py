# SPDX-License-Identifier: BSD-3-Clause
"""Ownership of a volume: a record changed by compare-and-swap, logs that diverge, and a shared origin.

Node A owns the volume in epoch 1 and counts all others. It writes segments, ships and commits them, acknowledges what
all it counts have committed, and destages. Nodes crash (and start again at once: a node that does nothing is as good as
one that is down), are paused, are left out and let in, and take over. A paused owner goes on whenever it likes: until
it learns of a newer epoch it writes, ships, swaps and destages as before. Lost links need nothing more: a segment that
was sent, a cursor, a comparison of two logs may come at any time or never.
"""

from tests.peers import ownership_owner, ownership_record, ownership_standby
from tests.peers import ownership_rules as rules
from tests.peers.ownership_state import DURABLY, JOINING, NAMES, OWNER, STANDBY, TOLD, Left, Node, Record, State


class Ownership:
    """`ram`: writes are acknowledged at `peer-ram`, when all counted peers have received them."""

    def __init__(
        self, nodes=2, writes=1, crashes=0, takeovers=0, leave_outs=0, lost=0, replaced=0, ram=False, without=()
    ):
        self.numbers, self.writes, self.ram = range(nodes), writes, ram
        self.without = frozenset(without)
        assert self.without <= set(rules.RULES)
        none, others = frozenset(), frozenset(range(1, nodes))
        standby = Node(
            STANDBY, 1, 0, 1, (), 0, 0, 0, TOLD if ram else DURABLY, 0, none, (-1,) * nodes, False, None, False
        )
        owner = standby._replace(role=OWNER, complete=DURABLY, counted=others, known=(0,) * nodes)
        left = Left(writes, crashes, takeovers, leave_outs, lost, replaced)
        record = Record(1, 0, others, (), (0,) * nodes)
        nodes = (owner, *(standby for _ in others))
        self.initial = State(record, nodes, none, none, none, (), 1, (), (1, 0), left)

    def keeps(self, rule):
        return rule not in self.without

    def images(self, state):
        return (state,)

    def may_take_over(self, state, number):
        node, record = state.nodes[number], state.record
        if number != record.owner and number not in record.eligible:
            return False
        if node.identity != record.logs[number] and self.keeps(rules.LOG_NAMED):
            return False
        if not node.complete and self.keeps(rules.TOLD_COMPLETE):
            if number != record.owner or self.keeps(rules.UNRECOVERED_TOLD):
                return False
        return node.log[: len(record.point)] == record.point or not self.keeps(rules.POINT_CHECKED)

    def broken(self, state):
        record = state.record
        for number in (record.owner, *record.eligible):
            if self.may_take_over(state, number):
                violation = self._incomplete(state, number)
                if violation:
                    return violation
        newest = [node.epoch for node in state.nodes if node.role == OWNER]
        if len(newest) != len(set(newest)):
            return f"two owners in epoch {max(newest)}"
        return self._stranded(state)

    def _incomplete(self, state, number):
        """What a node that may take over lacks."""
        node, name = state.nodes[number], NAMES[number]
        durable = node.log[: node.committed]
        held = node.log if self.ram else durable
        if held[: len(state.acknowledged)] != state.acknowledged:
            return f"an acknowledged write is lost: {name} may take over and does not have it"
        if durable[: len(state.origin)] != state.origin:
            return f"the origin is ahead of {name}, which may take over"
        if len(state.origin) > node.batch_end:
            return f"the origin was written further than the superblock of {name} says, which may take over"
        if len(state.origin) < node.destaged:
            return f"the origin is older than the superblock of {name} says, which may take over"
        return None

    def _stranded(self, state):
        """Whether a taker that did not get as far as recovering has left nobody who could do it instead. With a log
        lost before, or acknowledged in memory only, that takes two failures."""
        record = state.record
        unfinished = state.nodes[record.owner].epoch < record.epoch and state.recovered[1] != record.owner
        if not unfinished or self.ram or any(node.identity for node in state.nodes):
            return None
        if any(self.may_take_over(state, number) for number in record.eligible):
            return None
        return f"{NAMES[record.owner]} never served in epoch {record.epoch}, and nobody may take over from it"

    def serves(self, state):
        """All writes were made, the owner serves, all others are eligible, and its log is acknowledged and destaged."""
        record = state.record
        owner = state.nodes[record.owner]
        return (
            owner.role == OWNER
            and owner.epoch == record.epoch
            and owner.asked is None
            and not owner.unsettled
            and len(record.eligible) == len(self.numbers) - 1
            and all(self.may_take_over(state, number) for number in record.eligible)
            and state.acknowledged == state.origin == owner.log
            and not state.left.writes
        )

    def steps(self, state):
        yield from ownership_record.decides(self, state)
        yield from ownership_owner.origin(self, state)
        for number in self.numbers:
            yield from ownership_standby.failures(self, state, number)
            if state.nodes[number].role == STANDBY:
                yield from ownership_standby.steps(self, state, number)
            yield from ownership_record.answers(self, state, number)
            if state.nodes[number].role in (JOINING, OWNER):
                yield from ownership_owner.steps(self, state, number)
                yield from ownership_record.swaps(self, state, number)

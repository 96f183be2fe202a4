# SPDX-License-Identifier: BSD-3-Clause
"""An owner A and a peer B, each with an origin of its own: destaging at both, falling out of the log, and filling.

Each write changes one block, to a content that no other write has. A's log reaches back to `oldest`; what B needs from
before that is noted by block in a bitmap, and copied from A's volume while it is in use. B's log goes on meanwhile.
B crashes, A crashes and begins a new epoch without what it had not committed, a third node takes its place, and the
link may be lost for a while.
"""

from collections import namedtuple

from tests.peers.search import BrokenError

SAFE = "no origin of a peer's own goes above safe, the lowest committed of the owner and all it counts"
OWNER_SAFE = "the owner's own origin does not go above committed of a counted peer either"
BITMAP_FIRST = "regions are noted for an absent peer, durably, before the log space that has them is used again"
DRAIN_FIRST = "a peer whose log begins again has first destaged what it had"
INCONSISTENT_FIRST = "a peer is inconsistent, durably, before its log begins again without what was noted for it"
COPY_ALONE = "a peer does not destage between reading a region from the owner and writing it"
HEAD_REACHED = "a copied region counts when the peer has destaged up to the owner's head of when it was read"
SAME_EPOCH = "what was copied in an earlier epoch and does not count yet is copied again"
BEGIN_FORGETS = "when the log of a peer begins again, what was copied and does not count yet is copied again"
KNOWN_CUT = "what an owner knows that an absent peer has ends where its own log ends after a crash"
EVERYWHERE = "what is noted for an absent peer is noted at every node that may take over"
RULES = (
    SAFE, OWNER_SAFE, BITMAP_FIRST, DRAIN_FIRST, INCONSISTENT_FIRST, COPY_ALONE, HEAD_REACHED, SAME_EPOCH,
    BEGIN_FORGETS, KNOWN_CUT, EVERYWHERE,
)  # fmt: skip

Peer = namedtuple("Peer", "start log destaged origin consistent wanted copied reading joined counts")
"""Its log has the writes after `start`, a number. `origin`: a content for each block. Durable: the log, `destaged`,
`consistent`, and `wanted`, the blocks that have to be copied. In memory: `copied`, pairs of a block and the owner's
head when it was read; `reading`, a block that was read, its content and that head; `joined`, the logs were compared."""
State = namedtuple(
    "State", "history committed destaged oldest known bitmap unnoted peer acknowledged made crashes losses"
)
"""The owner: history, all its writes as (block, content); committed, destaged and oldest, numbers of writes; known, up
to where B has its log, durably, as A remembers; bitmap, and the blocks that are still to be noted in it. Then how many
writes were acknowledged, how many were made at all, and what may still happen: crashes, lost links."""


class OwnOrigins:
    def __init__(self, writes=3, blocks=2, crashes=1, losses=1, without=()):
        self.writes, self.blocks, self.without = writes, blocks, frozenset(without)
        assert self.without <= set(RULES)
        blank = (0,) * blocks
        peer = Peer(0, (), 0, blank, True, frozenset(), frozenset(), None, True, True)
        self.initial = State((), 0, 0, 0, 0, frozenset(), frozenset(), peer, 0, 0, crashes, losses)

    def images(self, state):
        """Blocks may be exchanged."""
        if self.blocks != 2:
            return (state,)
        return (state, _exchanged(state))

    def serves(self, state):
        """All writes were made and are on both origins, and B may take over."""
        peer = state.peer
        return (
            state.made == self.writes
            and state.destaged == len(state.history) == peer.destaged
            and peer.counts
        )

    def broken(self, state):
        """B's origin and log are the volume after some of the writes, unless it says that they are not; and it has
        everything that was acknowledged, if it may take over."""
        peer, end = state.peer, state.peer.start + len(state.peer.log)
        if peer.consistent:
            found = _replayed(peer.origin, peer.log[max(peer.destaged - peer.start, 0) :])
            if found != _replayed((0,) * self.blocks, state.history[: peer.start] + peer.log):
                return "B counts as consistent, and its origin and log are no state that the volume had"
        if peer.counts:
            if not peer.consistent:
                return "B counts and is not consistent"
            needed = max(state.acknowledged - peer.start, 0)
            if end < state.acknowledged or peer.log[:needed] != state.history[peer.start : state.acknowledged]:
                return "B counts and lacks what was acknowledged"
            if state.destaged > end:
                return "the origin of A has what B, which may take over, does not have"
        return None

    def steps(self, state):
        for what, following in self._events(state):
            yield what, _with_answers(following)

    def _events(self, state):
        yield from self._owner(state)
        yield from self._peer(state)
        yield from self._filling(state)
        yield from self._troubles(state)

    def _owner(self, state):
        head, peer = len(state.history), state.peer
        if state.made < self.writes:
            for block in range(self.blocks):
                write = (block, state.made + 1)
                yield f"A writes {write[1]} to block {block}", state._replace(
                    history=(*state.history, write), made=state.made + 1
                )
        if state.committed < head:
            yield f"A commits up to {head}", state._replace(committed=head)
        limit = state.committed
        if peer.counts and OWNER_SAFE not in self.without:
            # What it has counts when the logs were compared in this epoch.
            limit = min(limit, _end(peer)) if peer.joined else 0
        if state.destaged < limit:
            yield f"A destages up to {limit}", state._replace(destaged=limit)
        if state.oldest < state.destaged and not state.unnoted:
            yield from self._reuse(state)
        if state.unnoted:
            yield "A notes what has left its log", state._replace(
                bitmap=state.bitmap | state.unnoted, unnoted=frozenset()
            )

    def _reuse(self, state):
        """The oldest write leaves the log of A."""
        peer, number = state.peer, state.oldest + 1
        lacked = frozenset({state.history[number - 1][0]} if state.known < number else ())
        if not lacked:
            yield f"write {number} leaves the log of A", state._replace(oldest=number)
        elif not peer.counts:
            if BITMAP_FIRST in self.without:
                yield f"write {number} leaves the log of A", state._replace(oldest=number, unnoted=lacked)
            else:
                yield f"A notes the block of write {number}, which leaves its log", state._replace(
                    oldest=number, bitmap=state.bitmap | lacked
                )

    def _peer(self, state):
        peer = state.peer
        end = _end(peer)
        if not peer.joined:
            yield from self._join(state)
            return
        if state.oldest <= end < len(state.history):
            following = peer._replace(log=(*peer.log, state.history[end]))
            yield f"B receives and commits write {end + 1}", state._replace(peer=following, known=end + 1)
        limit = end if SAFE in self.without else min(end, state.committed)
        is_copying = peer.reading and COPY_ALONE not in self.without
        if peer.destaged < limit and not is_copying:
            number = peer.destaged + 1
            origin = _replayed(peer.origin, (peer.log[number - peer.start - 1],))
            following = peer._replace(destaged=number, origin=origin)
            yield f"B destages write {number}", state._replace(peer=following)
        if end < state.oldest and (peer.destaged == end or DRAIN_FIRST in self.without) and not peer.reading:
            yield from self._begin_again(state)
        if not peer.counts and peer.consistent and end == len(state.history):
            yield "A lets B in", state._replace(peer=peer._replace(counts=True))

    def _join(self, state):
        """The two logs are compared, and what B has and A does not is cut off."""
        peer = state.peer
        common, limit = peer.start, min(_end(peer), len(state.history))
        while common < limit and peer.log[common - peer.start] == state.history[common]:
            common += 1
        if peer.destaged > common:
            raise BrokenError("the origin of B has what is cut off of its log")
        copied = peer.copied if SAME_EPOCH in self.without else frozenset()
        following = peer._replace(joined=True, log=peer.log[: common - peer.start], copied=copied)
        yield f"B joins; its log ends at {common}", state._replace(peer=following, known=common)

    def _begin_again(self, state):
        peer = state.peer
        wanted = peer.wanted | state.bitmap
        following = peer._replace(
            start=state.oldest, log=(), destaged=state.oldest, wanted=wanted,
            consistent=(peer.consistent and not wanted) or INCONSISTENT_FIRST in self.without,
            copied=peer.copied if BEGIN_FORGETS in self.without else frozenset(),
        )  # fmt: skip
        yield f"the log of B begins again after write {state.oldest}, blocks {sorted(wanted)} are to be copied", (
            state._replace(peer=following, bitmap=frozenset(), known=state.oldest)
        )

    def _filling(self, state):
        peer = state.peer
        if not peer.joined:
            return
        done = {block for block, _head in peer.copied}
        if peer.reading:
            block, content, head = peer.reading
            origin = tuple(content if number == block else old for number, old in enumerate(peer.origin))
            following = peer._replace(origin=origin, reading=None, copied=peer.copied | {(block, head)})
            yield f"B writes the copy of block {block}", state._replace(peer=following)
        elif _end(peer) >= state.oldest:
            volume = _replayed((0,) * self.blocks, state.history)
            for block in sorted(peer.wanted - done):
                following = peer._replace(reading=(block, volume[block], len(state.history)))
                yield f"B reads block {block} of A: {volume[block]}", state._replace(peer=following)
        for block, head in sorted(peer.copied):
            if peer.destaged >= head or HEAD_REACHED in self.without:
                wanted = peer.wanted - {block}
                following = peer._replace(
                    copied=peer.copied - {(block, head)}, wanted=wanted, consistent=peer.consistent or not wanted
                )
                yield f"the copy of block {block} counts", state._replace(peer=following)

    def _troubles(self, state):
        peer = state.peer
        away = peer._replace(joined=False, counts=False, reading=None)
        if state.losses and peer.joined:
            following = state._replace(peer=away, losses=state.losses - 1)
            yield "the link is lost, and A leaves B out", following
        if state.crashes:
            following = state._replace(peer=away._replace(copied=frozenset()), crashes=state.crashes - 1)
            yield "B crashes, and A leaves it out", following
            following = state._replace(
                history=state.history[: state.committed], unnoted=frozenset(), crashes=state.crashes - 1,
                known=state.known if KNOWN_CUT in self.without else min(state.known, state.committed),
                peer=peer._replace(joined=False, reading=None),
            )  # fmt: skip
            yield "A crashes, and begins a new epoch", following
            noted = frozenset() if EVERYWHERE in self.without else state.bitmap
            yield "A dies; a third node, which has what A had committed, goes on as A", following._replace(bitmap=noted)


def _end(peer):
    return peer.start + len(peer.log)


def _replayed(volume, writes):
    volume = list(volume)
    for block, content in writes:
        volume[block] = content
    return tuple(volume)


def _with_answers(state):
    """A answers what is committed where it has to be."""
    peer = state.peer
    if peer.counts and not peer.joined:
        return state
    answered = min(state.committed, _end(peer)) if peer.counts else state.committed
    return state._replace(acknowledged=max(state.acknowledged, answered))


def _exchanged(state):
    def blocks(some):
        return frozenset(1 - block for block in some)

    def writes(some):
        return tuple((1 - block, content) for block, content in some)

    peer, reading = state.peer, state.peer.reading
    peer = peer._replace(
        log=writes(peer.log), origin=peer.origin[::-1], wanted=blocks(peer.wanted),
        copied=frozenset((1 - block, head) for block, head in peer.copied),
        reading=reading and (1 - reading[0], *reading[1:]),
    )  # fmt: skip
    return state._replace(
        history=writes(state.history), bitmap=blocks(state.bitmap), unnoted=blocks(state.unnoted), peer=peer
    )

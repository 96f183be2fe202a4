# SPDX-License-Identifier: BSD-3-Clause
"""The log device of a standby: laps over a few places, two superblocks, and crashes.

The owner writes segments 1, 2, ..., each to the place (number modulo places), destages, and announces what it needs
with superblocks. All of it goes to the standby in that order. Segments and superblocks say what is `committed` at the
owner. The standby's device has a cache: at a crash, each write that was not synced is there, is not there, or is torn.
After a crash the standby recovers, and the owner ships again what it lacks.
"""

import itertools
from collections import namedtuple

GENERATION_SYNCED = "a generation is synced before the next one"
SUPERBLOCK_LAST = "everything is synced before a superblock"
OWN_SUPERBLOCKS = "a place is overwritten only below oldest of its own two durable superblocks"
CATCH_UP_IN_ORDER = "catching up ships a superblock after the segments it calls committed, before all later ones"
OLDEST_REPORTED = "the owner reuses a place only below oldest of the standby's two durable superblocks as well"
RULES = (GENERATION_SYNCED, SUPERBLOCK_LAST, OWN_SUPERBLOCKS, CATCH_UP_IN_ORDER, OLDEST_REPORTED)

Segment = namedtuple("Segment", "number committed")
Superblock = namedtuple("Superblock", "number oldest committed")
State = namedtuple("State", "said committed destaged superblocks stream device cache received reported crashes")
"""Owner: said (what each of its segments says is committed), committed, destaged, superblocks (the last two). On their
way: stream. Standby: device (places, then two slots for superblocks), cache (its writes that are not synced, as (place,
value)), received and reported (numbers of segments; what was reported is durable), crashes (that may still happen)."""


class StandbyLog:
    def __init__(self, places=2, segments=4, crashes=1, without=()):
        self.places, self.segments, self.without = places, segments, frozenset(without)
        assert self.without <= set(RULES)
        self.most_superblocks = segments + 3
        first = (Superblock(0, 1, 0), Superblock(1, 1, 0))
        self.initial = State((), 0, 0, first, (), (None,) * places + first, (), 0, 0, crashes)

    def images(self, state):
        return (state,)

    def broken(self, state):
        """Recovery after a crash at this moment, whatever the device kept of its cache."""
        for device, kept in self._after_crash(state):
            if not any(device[self.places :]):
                return f"no superblock is left (kept: {kept})"
            start, end, known = self._recover(device)
            if known > end:
                return f"recovery refuses: {known} was committed, the chain from {start} ends at {end} (kept: {kept})"
            if end < state.reported:
                return f"committed {state.reported} is lost: the chain from {start} ends at {end} (kept: {kept})"
        return None

    def serves(self, state):
        """All segments went through the places and are committed at both."""
        return state.reported == self.segments

    def steps(self, state):
        yield from self._owner(state)
        yield from self._standby(state)
        if state.crashes:
            yield from self._crash(state)

    def _owner(self, state):
        number = len(state.said) + 1
        oldest = min(superblock.oldest for superblock in state.superblocks)
        free = oldest if OLDEST_REPORTED in self.without else min(oldest, self._durable_oldest(state))
        if number <= self.segments and number - self.places < free:
            segment = Segment(number, state.committed)
            following = state._replace(said=(*state.said, state.committed), stream=(*state.stream, segment))
            yield f"the owner writes and ships segment {number} over place {number % self.places}", following
        if state.committed < len(state.said):
            yield f"the owner syncs: committed={len(state.said)}", state._replace(committed=len(state.said))
        pinned = min(state.committed, state.reported)
        if state.destaged < pinned:
            yield f"the owner destages up to {pinned}", state._replace(destaged=pinned)
        newest = state.superblocks[1]
        needed = state.destaged + 1 > oldest
        if needed and newest.number < self.most_superblocks:
            superblock = Superblock(newest.number + 1, state.destaged + 1, state.committed)
            following = state._replace(superblocks=(newest, superblock), stream=(*state.stream, superblock))
            yield f"the owner writes and ships {_name(superblock)}", following

    def _standby(self, state):
        if state.stream:
            value = state.stream[0]
            if isinstance(value, Segment):
                place, ready = value.number % self.places, self._may_write(state, value)
            else:
                place = self.places + value.number % 2
                ready = not (state.cache and SUPERBLOCK_LAST not in self.without)
            if ready:
                following = state._replace(stream=state.stream[1:], cache=(*state.cache, (place, value)))
                if isinstance(value, Segment):
                    following = following._replace(received=value.number)
                yield f"the standby writes {_name(value)}", following
        if state.cache:
            following = state._replace(device=_written(state.device, state.cache), cache=(), reported=state.received)
            yield f"the standby syncs and reports {state.received}", following

    def _may_write(self, state, segment):
        if GENERATION_SYNCED not in self.without and any(place < self.places for place, _value in state.cache):
            return False
        return OWN_SUPERBLOCKS in self.without or segment.number - self.places < self._durable_oldest(state)

    def _durable_oldest(self, state):
        return min(superblock.oldest for superblock in state.device[self.places :])

    def _after_crash(self, state):
        for fates in itertools.product(("there", "absent", "torn"), repeat=len(state.cache)):
            device, kept = list(state.device), []
            for fate, (place, value) in zip(fates, state.cache, strict=True):
                if fate != "absent":
                    device[place] = value if fate == "there" else None
                    kept.append(_name(value) + (" torn" if fate == "torn" else ""))
            yield tuple(device), ", ".join(kept) or "nothing"

    def _crash(self, state):
        for device, kept in self._after_crash(state):
            if all(device[self.places :]):
                slots = device[self.places :]
            else:  # Recovery writes the superblock that was torn again, from the one that is left.
                slots = (max(filter(None, device[self.places :])),) * 2
            _start, end, _known = self._recover(device)
            following = state._replace(
                device=device[: self.places] + slots,
                cache=(),
                received=end,
                reported=end,
                stream=self._catch_up(state, end, max(slots)),
                crashes=state.crashes - 1,
            )
            yield f"the standby crashes and keeps {kept}; it recovers up to {end} and joins", following

    def _catch_up(self, state, end, newest):
        """What the owner ships to a standby whose log ends at `end` and that has the superblock `newest`."""
        stream = [Segment(number, state.said[number - 1]) for number in range(end + 1, len(state.said) + 1)]
        superblocks = [superblock for superblock in state.superblocks if superblock > newest]
        if CATCH_UP_IN_ORDER in self.without:
            return (*superblocks, *stream)
        for superblock in superblocks:
            places = enumerate(stream)
            later = (i for i, value in places if isinstance(value, Segment) and value.number > superblock.committed)
            stream.insert(next(later, len(stream)), superblock)
        return tuple(stream)

    def _recover(self, device):
        """Where the chain begins, where it ends, and what is known to be committed."""
        superblock = max(filter(None, device[self.places :]))
        end = superblock.oldest - 1
        while (segment := device[(end + 1) % self.places]) and segment.number == end + 1:
            end += 1
        said = [each.committed for each in device[: self.places] if each and each.number >= superblock.oldest]
        return superblock.oldest, end, max([superblock.committed, *said])


def _written(device, cache):
    device = list(device)
    for place, value in cache:
        device[place] = value
    return tuple(device)


def _name(value):
    if isinstance(value, Segment):
        return f"segment {value.number} (committed={value.committed})"
    return f"superblock {value.number} (oldest={value.oldest} committed={value.committed})"

# SPDX-License-Identifier: BSD-3-Clause
"""Blocks of the origin that are given up: what they may hold from then on, and a thread that gives them up.

To give up is no write: the newest version of a block is left out, and the volume is there what the origin has, an
older version. A version is a number: 0 is what a sector held before anybody wrote it, 1 what the first step made of it.
"""

import random
from typing import NamedTuple

from wbcache_core.errors import ControlError, StoppedError


class Loss(NamedTuple):
    """Instead of the versions first to last any older one may be there; with `contents`, one of these is."""

    first: int
    last: int
    contents: frozenset | None = None


class GivenUp:
    """What was given up so far, told in the order of the journal."""

    def __init__(self):
        self._records = []
        """(place in the journal, {sector: list of Loss})."""

    def add(self, position, losses):
        """A cut behind that place may find these sectors without their newest version."""
        self._records.append((position, losses))

    def count_before(self, position):
        """How many of them count for a cut there."""
        return sum(1 for place, _ in self._records if place < position)

    def versions(self, sector, count, contents, value):
        """The versions, in order, at which this sector may hold value. `contents` are those of all versions, `count`
        what count_before() said."""
        found = {version for version, content in enumerate(contents) if content == value}
        for _, losses in self._records[:count]:
            for loss in losses.get(sector, ()):
                for version in range(loss.first, min(loss.last, len(contents) - 1) + 1):
                    if value in (contents[: version + 1] if loss.contents is None else loss.contents):
                        found.add(version)
                    else:
                        found.discard(version)
        return sorted(found)

    def after_cut(self, position, newest, found):
        """What a session has to know that begins with such a cut. newest(sector) is the number of the newest version
        and its content, found(sector) what is there instead."""
        successor = GivenUp()
        known = {}
        for _, losses in self._records[: self.count_before(position)]:
            for sector, some in losses.items():
                last, content = newest(sector)
                # Older versions can only be met in past moments.
                kept = [loss._replace(last=min(loss.last, last - 1)) for loss in some]
                if found(sector) != content:
                    kept.append(Loss(last, last, frozenset({found(sector)})))
                known.setdefault(sector, []).extend(loss for loss in kept if loss.first <= loss.last)
        successor.add(-1, known)
        return successor


class GiverUp:
    """Gives up what the cache says is bad, a range at a time."""

    def __init__(self, session):
        self._session = session
        self._random = random.Random(f"giver-up {session.seed}")
        bad = session.cache._bad
        bad.give_up = self._noting(bad.give_up)

    def run(self):
        session = self._session
        while not session.is_over:
            session.simulation.sleep(self._random.expovariate(1 / (4 * session.scenario.pause)))
            with session.cache._line.lock:
                ranges = session.cache._bad.facts()["ranges"]
            if not ranges:
                continue
            chosen = self._random.choice(ranges)
            try:
                length, is_done = session.cache.give_up(chosen["offset"], chosen["length"])
            except (ControlError, StoppedError):
                continue
            session.given_up += is_done * length

    def _noting(self, give_up):
        """BadBlocks.give_up(), telling the oracle. It holds the volume lock: nothing is added to the map meanwhile."""

        def noting(first, stop):
            chosen = give_up(first, stop)
            self._session.oracle.give_up(chosen, len(self._session.journal))
            return chosen

        return noting

# SPDX-License-Identifier: BSD-3-Clause
"""The generations (commits) that the log covers: number, where each ends on the number line, and its time.

Numbers are consecutive, and ends increase. Times are what the wall clock said: they need not increase, and two may be
equal. timeline.py tells what they are worth. Packed: 24 bytes per generation. Callers hold the volume lock. In a server
these are exactly the generations that can be opened: Pins drops the others.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.clock import Reading
from wbcache_core.format.superblock import Tag
from wbcache_core.memory.timeline import Timeline


class Generation(NamedTuple):
    """One commit: the volume as it stood at `end_lsn`. time_ns is what the clock said, in ns since 1970."""

    number: int
    end_lsn: int
    time_ns: int

    @classmethod
    def of(cls, tag: Tag) -> "Generation":
        """The generation that a tag names."""
        return cls(tag.generation, tag.end_lsn, tag.time_ns)


class Generations:
    def __init__(self) -> None:
        self._first_number = 0
        self._ends = array("Q")
        self.times = Timeline()
        """One entry per generation, by index: see at()."""

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Generation]:
        return (self.at(index) for index in range(len(self._ends)))

    def at(self, index: int) -> Generation:
        """The oldest generation that is covered has index 0."""
        return Generation(self._first_number + index, self._ends[index], self.times.wall(index))

    def append(self, number: int, end_lsn: int, reading: Reading) -> None:
        """The next generation, or, with the number of the last one, the new end of that one.

        After a gap, which no wbcache leaves, only what follows is kept.
        """
        ends, times = self._ends, self.times
        if ends:
            ahead = number - self._first_number - len(ends)
            if ahead == -1:
                ends[-1] = end_lsn
                return
            if ahead:
                del ends[:]
                times.clear()
        if not ends:
            self._first_number = number
        ends.append(end_lsn)
        times.append(reading)

    def drop_below(self, lsn: int) -> None:
        """Forget the generations that end below lsn."""
        count = bisect_left(self._ends, lsn)
        del self._ends[:count]
        self.times.drop(count)
        self._first_number += count

    @property
    def oldest(self) -> Generation | None:
        return self.at(0) if self._ends else None

    @property
    def newest(self) -> Generation | None:
        return self.at(len(self._ends) - 1) if self._ends else None

    def numbered(self, number: int) -> Generation | None:
        """The generation with that number, if it is covered."""
        index = number - self._first_number
        return self.at(index) if 0 <= index < len(self._ends) else None

    def last_in_group(self, first: Generation, until_ns: int) -> Generation:
        """The last one, from `first` on, at or before a time of the wall clock, before that was set back."""
        return self.at(self.times.last_until(first.number - self._first_number, until_ns))

    def kept_for(self, age_ns: int, now: Reading) -> Generation | None:
        """The newest one that is at least this old, whatever the wall clock did."""
        index = self.times.at_least_old(age_ns, now)
        return self.at(index) if index >= 0 else None

    def due_ns(self, generation: Generation, age_ns: int, now: Reading) -> int:
        """How long it takes until it is this old."""
        return self.times.due_ns(generation.number - self._first_number, age_ns, now)

    def ending_at_or_below(self, lsn: int) -> Generation | None:
        """The newest generation that is completely below lsn."""
        index = bisect_right(self._ends, lsn) - 1
        return self.at(index) if index >= 0 else None

    def ending_above(self, lsn: int) -> Generation | None:
        """The oldest generation that ends above lsn."""
        index = bisect_right(self._ends, lsn)
        return self.at(index) if index < len(self._ends) else None

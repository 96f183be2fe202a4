# SPDX-License-Identifier: BSD-3-Clause
"""The generations (commits) that the log covers: number, where each ends on the number line, and its time.

Numbers are consecutive; ends and times grow. Packed: 16 bytes a generation.
Callers hold the volume lock. In a server these are exactly the generations
that can be opened: Pins drops the others.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Generation(NamedTuple):
    """One commit: the volume as it stood at `end_lsn`, in ns since 1970."""

    number: int
    end_lsn: int
    time_ns: int


class Generations:
    def __init__(self) -> None:
        self._first_number = 0
        self._ends = array("Q")
        self._times = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Generation]:
        return (self._at(index) for index in range(len(self._ends)))

    def _at(self, index: int) -> Generation:
        return Generation(self._first_number + index, self._ends[index], self._times[index])

    def append(self, number: int, end_lsn: int, time_ns: int) -> None:
        """The next generation, or, with the number of the last one, where that goes on to.

        Behind a gap, which no wbcache leaves, only what follows it is kept.
        """
        ends, times = self._ends, self._times
        if ends:
            ahead = number - self._first_number - len(ends)
            if ahead == -1:
                ends[-1] = end_lsn
                return
            if ahead or time_ns <= times[-1]:
                del ends[:], times[:]
        if not ends:
            self._first_number = number
        ends.append(end_lsn)
        times.append(time_ns)

    def drop_below(self, lsn: int) -> None:
        """Forget the generations that end below lsn."""
        count = bisect_left(self._ends, lsn)
        del self._ends[:count], self._times[:count]
        self._first_number += count

    @property
    def oldest(self) -> Generation | None:
        return self._at(0) if self._ends else None

    @property
    def newest(self) -> Generation | None:
        return self._at(len(self._ends) - 1) if self._ends else None

    def numbered(self, number: int) -> Generation | None:
        """The generation of that number, if it is covered."""
        index = number - self._first_number
        return self._at(index) if 0 <= index < len(self._ends) else None

    def at_or_before(self, time_ns: int) -> Generation | None:
        """The newest generation that is not later than a time."""
        index = bisect_right(self._times, time_ns) - 1
        return self._at(index) if index >= 0 else None

    def ending_at_or_below(self, lsn: int) -> Generation | None:
        """The newest generation all of which is below lsn."""
        index = bisect_right(self._ends, lsn) - 1
        return self._at(index) if index >= 0 else None

    def ending_above(self, lsn: int) -> Generation | None:
        """The oldest generation that ends above lsn."""
        index = bisect_right(self._ends, lsn)
        return self._at(index) if index < len(self._ends) else None

    def check(self) -> None:
        """Assert the order of ends and times."""
        assert len(self._ends) == len(self._times)
        assert all(map(int.__lt__, self._ends, self._ends[1:]))
        assert all(map(int.__lt__, self._times, self._times[1:]))

# SPDX-License-Identifier: BSD-3-Clause
"""Which segment an LSN is in, where that segment is in the log, and each page's checksum.

Packed arrays and a bisect: 16 bytes per segment and 8 bytes per LSN. Callers
hold the volume lock.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from wbcache_core.format.segment import ZSTD

_CHUNK_SHIFT = 12
_CHUNK_LSNS = 1 << _CHUNK_SHIFT
_CHUNK_MASK = _CHUNK_LSNS - 1
_ENCODED = 1 << 63


def _plain_place(place: int) -> int:
    return place & ~_ENCODED


class Located(NamedTuple):
    """A segment in the log. `place` is its position, a page number that only grows (format/superblock.py)."""

    first_lsn: int
    place: int
    encoded: bool


class SegmentTable:
    """Segments in LSN order, without gaps, from the oldest intact one to the last committed one."""

    def __init__(self) -> None:
        self._first_lsns = array("Q")
        self._places = array("Q")
        self._page_sums: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return len(self._first_lsns)

    def append(self, first_lsn: int, place: int, encoding: int, page_sums: Sequence[int]) -> None:
        """Add the segment that follows the last one."""
        self._first_lsns.append(first_lsn)
        self._places.append(place | _ENCODED if encoding == ZSTD else place)
        lsn, sums = first_lsn + 1, array("Q", page_sums)
        if len(sums) == 1 and (chunk := self._page_sums.get(lsn >> _CHUNK_SHIFT)):
            chunk[lsn & _CHUNK_MASK] = sums[0]
            return
        while sums:
            index = lsn & _CHUNK_MASK
            part = sums[: _CHUNK_LSNS - index]
            chunk = self._page_sums.get(lsn >> _CHUNK_SHIFT)
            if chunk is None:
                chunk = self._page_sums[lsn >> _CHUNK_SHIFT] = array("Q", bytes(8 * _CHUNK_LSNS))
            chunk[index : index + len(part)] = part
            lsn += len(part)
            sums = sums[len(part) :]

    def locate(self, lsn: int) -> Located:
        """The segment that lsn is in; lsn is at or above the oldest and committed."""
        index = bisect_right(self._first_lsns, lsn) - 1
        place = self._places[index]
        return Located(self._first_lsns[index], place & ~_ENCODED, place >= _ENCODED)

    def first_after(self, lsn: int) -> int | None:
        """First LSN of the first segment that starts above lsn, or None."""
        index = bisect_right(self._first_lsns, lsn)
        return self._first_lsns[index] if index < len(self._first_lsns) else None

    def first_from_place(self, place: int) -> Located | None:
        """The first segment at or after a position, or None."""
        index = bisect_left(self._places, place, key=_plain_place)
        return self.locate(self._first_lsns[index]) if index < len(self._places) else None

    def first_lsns_between(self, start: int, end: int) -> list[int]:
        """First LSNs of the segments that start in [start, end)."""
        low, high = bisect_right(self._first_lsns, start - 1), bisect_right(self._first_lsns, end - 1)
        return list(self._first_lsns[low:high])

    def some_from(self, lsn: int, count: int) -> list[Located]:
        """The first segments that start at or above lsn, at most that many."""
        low = bisect_right(self._first_lsns, lsn - 1)
        return [self.locate(first_lsn) for first_lsn in self._first_lsns[low : low + count]]

    def page_sum(self, lsn: int) -> int:
        """The checksum of one page."""
        return self._page_sums[lsn >> _CHUNK_SHIFT][lsn & _CHUNK_MASK]

    def page_sums(self, lsn: int, count: int) -> list[int]:
        """The checksums of the pages with count consecutive LSNs."""
        found: list[int] = []
        while count:
            index = lsn & _CHUNK_MASK
            part = self._page_sums[lsn >> _CHUNK_SHIFT][index : index + min(count, _CHUNK_LSNS - index)]
            found.extend(part)
            lsn += len(part)
            count -= len(part)
        return found

    def part(self, start: int, end: int) -> "SegmentTable":
        """Another table, with the segments that start in [start, end)."""
        found = SegmentTable()
        low, high = bisect_right(self._first_lsns, start - 1), bisect_right(self._first_lsns, end - 1)
        found._first_lsns, found._places = self._first_lsns[low:high], self._places[low:high]
        # What they say below `end` does not change any more.
        chunks = range(start >> _CHUNK_SHIFT, (end - 1 >> _CHUNK_SHIFT) + 1)
        found._page_sums = {number: self._page_sums[number] for number in chunks if number in self._page_sums}
        return found

    def drop_below(self, lsn: int) -> None:
        """Forget the segments that start below lsn; lsn is the start of a segment or the end of the last."""
        count = bisect_right(self._first_lsns, lsn - 1)
        del self._first_lsns[:count], self._places[:count]
        for chunk in [number for number in self._page_sums if (number + 1) << _CHUNK_SHIFT <= lsn]:
            del self._page_sums[chunk]

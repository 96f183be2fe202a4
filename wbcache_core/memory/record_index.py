# SPDX-License-Identifier: BSD-3-Clause
"""What the dirty part of the log holds, in memory: enough to build the map of any past moment without reading it.

A segment of neighbouring blocks takes 16 bytes; any other takes 16 bytes and 4
for each page, or 8 for each run of neighbours if that is less (twice as much on
volumes of 16 TiB or more); one with trims or zeros takes 16 bytes per entry.
Segments below `destaged` are dropped.

Callers of append(), drop_below() and between() hold the volume lock. What
between() returns is replayed without it: entries are only ever added at the
end.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import sub
from typing import NamedTuple, Protocol

from wbcache_core.format.segment import PAGE, Descriptor, Entry, entries_of
from wbcache_core.memory.generations import Generations
from wbcache_core.memory.map_entry import replay_entries
from wbcache_core.units import pages_of

_CHUNK_SEGMENTS = 1024
_RUN = 1 << 63
"""In `starts`: the segment is one run of neighbouring blocks, and the rest of the number is the first."""
_MIXED = 1 << 62
"""In `starts`: the segment has range entries and is in `mixed`."""
_RUNS = 1 << 61
"""In `starts`: `blocks` has several runs, the first block and the number of blocks of each."""
_SMALL_BLOCKS = 1 << 32
_LARGEST_DICT = 1 << 20
"""About this many blocks are sorted at once: a hundred bytes each while a map is built."""


class _Chunk:
    """Up to _CHUNK_SEGMENTS segments, one after another."""

    __slots__ = ("blocks", "first_lsns", "mixed", "starts")

    def __init__(self, typecode: str) -> None:
        self.first_lsns = array("Q")
        self.starts = array("Q")
        self.blocks = array(typecode)
        self.mixed = array("Q")
        """For each segment with range entries: the number of its entries, their entry words, and their arguments."""

    def entries(self, start: int, first_lsn: int) -> Iterator[Entry]:
        """Those of a segment with range entries; start as in `starts`."""
        at = start - _MIXED + 1
        count = self.mixed[at - 1]
        return entries_of(first_lsn, self.mixed[at : at + count], self.mixed[at + count : at + 2 * count])


class Locations(Protocol):
    """What records are entered in: LocationMap, or something that only notes blocks."""

    def set_page(self, block: int, lsn: int) -> None:
        """A block has that LSN."""

    def set_pages(self, entries: dict[int, int]) -> None:
        """LSNs by block. The dict is the caller's again afterwards."""

    def set_run(self, block: int, count: int, lsn: int) -> None:
        """Neighbouring blocks have LSNs that follow each other."""

    def set_all(self, block: int, count: int, entry: int) -> None:
        """Blocks with the same entry (map_entry.py)."""


class Tally(NamedTuple):
    """What was written: pages of data, and blocks that were trimmed or zeroed; a block counts each time."""

    pages: int
    cleared_blocks: int


class Records:
    """The records of [start, end); see RecordIndex.between()."""

    def __init__(self, chunks: list[_Chunk], start: int, end: int) -> None:
        self._chunks = chunks
        self._start = start
        self._end = end

    def replay(self, locations: Locations) -> None:
        """Enter all of them into a map, in order. Needs no lock. Takes time roughly linear in their number."""
        newest: dict[int, int] = {}
        for index, chunk in enumerate(self._chunks):
            following = self._chunks[index + 1].first_lsns[0] if index + 1 < len(self._chunks) else self._end
            first_lsns = chunk.first_lsns[:]
            low, high = bisect_left(first_lsns, self._start), bisect_left(first_lsns, self._end)
            bounds = first_lsns[low:high]
            bounds.append(min(following, self._end))
            _replay(chunk, chunk.starts[low:high], bounds, newest, locations)
        locations.set_pages(newest)

    def tallies(self, bounds: Sequence[int]) -> list[Tally]:
        """What was written between each of these ends of segments, in ascending order, and the next. Needs no lock."""
        firsts = [chunk.first_lsns[0] for chunk in self._chunks]
        found = []
        for start, end in pairwise(bounds):
            segments = cleared = 0
            for chunk in self._chunks[max(bisect_right(firsts, start) - 1, 0) : bisect_left(firsts, end)]:
                low, high = bisect_left(chunk.first_lsns, start), bisect_left(chunk.first_lsns, end)
                segments += high - low
                if chunk.mixed:
                    cleared += sum(_cleared(chunk, one) for one in chunk.starts[low:high] if _MIXED <= one < _RUN)
            found.append(Tally(end - start - segments, cleared))
        return found


def _cleared(chunk: _Chunk, start: int) -> int:
    """Blocks that the range entries of a segment trim or zero."""
    return sum(entry.blocks for entry in chunk.entries(start, 0) if entry.kind != PAGE)


def _replay(
    chunk: _Chunk, starts: "array[int]", bounds: "array[int]", newest: dict[int, int], locations: Locations
) -> None:
    """Leave in `newest` what the map does not have yet, so that many can be entered at once."""
    for index, start in enumerate(starts):
        lsn = bounds[index] + 1
        count = bounds[index + 1] - lsn
        if start >= _RUN and count == 1:
            newest[start - _RUN] = lsn
        elif start < _RUNS:
            newest.update(zip(chunk.blocks[start : start + count], range(lsn, lsn + count), strict=True))
        else:
            # These cover what came before.
            locations.set_pages(newest)
            newest.clear()
            if start >= _RUN:
                locations.set_run(start - _RUN, count, lsn)
            elif start < _MIXED:
                _replay_runs(chunk.blocks, start - _RUNS, lsn, lsn + count, locations)
            else:
                replay_entries(chunk.entries(start, lsn - 1), locations.set_page, locations.set_all)
    if len(newest) > _LARGEST_DICT:
        locations.set_pages(newest)
        newest.clear()


def _replay_runs(blocks: "array[int]", at: int, lsn: int, end: int, locations: Locations) -> None:
    while lsn < end:
        count = blocks[at + 1]
        locations.set_run(blocks[at], count, lsn)
        lsn += count
        at += 2


class RecordIndex:
    """The segments of [destaged, committed), or a little more than that."""

    def __init__(self, volume_blocks: int) -> None:
        self._typecode = "I" if volume_blocks <= _SMALL_BLOCKS else "Q"
        self._chunks: list[_Chunk] = []
        self._end = 0
        """The LSN after the last one."""

    def append(self, first_lsn: int, page_count: int, entry_words: Sequence[int], arguments: Sequence[int]) -> None:
        """Add the segment that follows the last one; its entry words and arguments are as in its descriptor."""
        if not self._chunks or len(self._chunks[-1].starts) == _CHUNK_SEGMENTS:
            self._chunks.append(_Chunk(self._typecode))
        chunk = self._chunks[-1]
        if page_count == len(entry_words) == 1:
            start = _RUN | entry_words[0]
        elif page_count != len(entry_words):
            start = _MIXED | len(chunk.mixed)
            chunk.mixed.append(len(entry_words))
            chunk.mixed.extend(entry_words)
            chunk.mixed.extend(arguments)
        else:
            start = self._add_pages(chunk.blocks, entry_words)
        # What a replay counts comes last: a replay runs without the lock.
        chunk.starts.append(start)
        chunk.first_lsns.append(first_lsn)
        self._end = first_lsn + 1 + page_count

    def _add_pages(self, blocks: "array[int]", entry_words: Sequence[int]) -> int:
        """Add a segment with nothing but pages, in the shortest form; returns the value for `starts`."""
        steps = list(map(sub, entry_words[1:], entry_words))
        joined = steps.count(1)
        if entry_words and joined == len(steps):
            return _RUN | entry_words[0]
        start = len(blocks)
        if 2 * (len(entry_words) - joined) >= len(entry_words):
            blocks.extend(array(self._typecode, entry_words))
            return start
        bounds = [0, *(index for index, step in enumerate(steps, 1) if step != 1), len(entry_words)]
        for low, high in pairwise(bounds):
            blocks.extend((entry_words[low], high - low))
        return _RUNS | start

    def between(self, start: int, end: int) -> Records:
        """The records of [start, end), both of which are boundaries of segments in the index."""
        chunks = self._chunks
        low = max(self._chunk_of(start), 0)
        high = self._chunk_of(end - 1) + 1
        return Records(chunks[low:high], start, end)

    def _chunk_of(self, lsn: int) -> int:
        """Index of the chunk with the segment that lsn is in, -1 below the first."""
        low, high = 0, len(self._chunks)
        while low < high:
            middle = (low + high) // 2
            if self._chunks[middle].first_lsns[0] <= lsn:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def drop_below(self, lsn: int) -> None:
        """Forget segments below lsn, a whole chunk at a time."""
        count = self._chunk_of(lsn) if lsn < self._end else len(self._chunks)
        if count > 0:
            del self._chunks[:count]


class CoveredLog:
    """The part of the log from which past moments can be opened: its generations and its records.

    Added to at each commit, rebuilt by recovery, dropped as the origin catches up. Callers hold the volume lock.
    """

    def __init__(self, volume_bytes: int) -> None:
        self.generations = Generations()
        self.records = RecordIndex(pages_of(volume_bytes))

    def append(self, descriptor: Descriptor) -> None:
        """The segment that follows the last one is durable."""
        self.records.append(
            descriptor.first_lsn, descriptor.page_count, descriptor.entry_words, descriptor.arguments
        )
        self.generations.append(descriptor.generation, descriptor.end_lsn, descriptor.reading)

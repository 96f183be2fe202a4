# SPDX-License-Identifier: BSD-3-Clause
"""A leaf of the map as intervals of blocks, for trims of parts of a region: 16 bytes each, whatever their length.

An interval is two words: where it starts and stops in the region, and the entry of its first block. In an interval of
zeros all blocks have that entry, in one of data each has the next LSN. The first half of the leaf is the bounds, in
order, the second half the entries. Intervals do not overlap; a block without an LSN (entry 0) has one of its own;
blocks in none of them are as the span says (block_map.py).

A leaf never changes: a change makes a new leaf, so that a look-up finds either of them complete.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from wbcache_core.memory.map_entry import ZERO_FLAG, entry_lsn, following_entry

_SHIFT = 16
_MASK = (1 << _SHIFT) - 1

Interval = tuple[int, int, int]
"""Index of the first block, index after the last one, entry of the first."""


class IntervalLeaf(array):  # type: ignore[type-arg]
    """The type distinguishes this kind of leaf from the others."""

    __slots__ = ()


def make(intervals: Iterable[Interval]) -> IntervalLeaf:
    """A leaf of intervals in order."""
    intervals = list(intervals)
    words = [start << _SHIFT | stop for start, stop, _ in intervals]
    words += [entry for _, _, entry in intervals]
    return IntervalLeaf("Q", words)


def intervals_of(leaf: IntervalLeaf) -> Iterator[Interval]:
    """In order."""
    half = len(leaf) >> 1
    for bounds, entry in zip(leaf[:half], leaf[half:], strict=True):
        yield bounds >> _SHIFT, bounds & _MASK, entry


def find(leaf: IntervalLeaf, index: int) -> int | None:
    """The entry of a block, or None."""
    half = len(leaf) >> 1
    at = bisect_left(leaf, index + 1 << _SHIFT, 0, half) - 1
    if at >= 0:
        bounds = leaf[at]
        if index < bounds & _MASK:
            entry: int = leaf[half + at]
            return entry if entry >= ZERO_FLAG else entry + index - (bounds >> _SHIFT)
    return None


def between(leaf: IntervalLeaf, first: int, stop: int) -> "list[Interval]":
    """The parts of the intervals within [first, stop), in order."""
    half = len(leaf) >> 1
    low = max(bisect_left(leaf, first + 1 << _SHIFT, 0, half) - 1, 0)
    high = bisect_left(leaf, stop << _SHIFT, low, half)
    found = []
    for bounds, entry in zip(leaf[low:high], leaf[half + low : half + high], strict=True):
        start, end = bounds >> _SHIFT, bounds & _MASK
        if end <= first:
            continue
        if start < first:
            entry, start = _moved(entry, first - start), first
        found.append((start, min(end, stop), entry))
    return found


def _moved(entry: int, count: int) -> int:
    """The entry of the block that many blocks after the first one."""
    return entry if entry >= ZERO_FLAG else entry + count


def with_interval(leaf: IntervalLeaf, start: int, stop: int, entry: int) -> IntervalLeaf:
    """The leaf with new content for [start, stop); similar intervals that touch are merged."""
    half = len(leaf) >> 1
    # The first one that stops at or after start, and the first one that begins after stop.
    low = max(bisect_left(leaf, start << _SHIFT, 0, half) - 1, 0)
    if low < half and leaf[low] & _MASK < start:
        low += 1
    high = bisect_left(leaf, stop + 1 << _SHIFT, low, half)
    bounds, entries = [start << _SHIFT | stop], [entry]
    if low < high:
        first, last = leaf[low], leaf[high - 1]
        # The last one first: both may be the same.
        begin, end, old = last >> _SHIFT, last & _MASK, leaf[half + high - 1]
        if end > stop:
            rest = _moved(old, stop - begin)
            if rest == _moved(entry, stop - start) and entry:
                bounds[0] = start << _SHIFT | end
            else:
                bounds.append(stop << _SHIFT | end)
                entries.append(rest)
        begin, end, old = first >> _SHIFT, first & _MASK, leaf[half + low]
        if begin < start:
            if _moved(old, start - begin) == entry and old:
                bounds[0], entries[0] = begin << _SHIFT | bounds[0] & _MASK, old
            else:
                bounds.insert(0, begin << _SHIFT | start)
                entries.insert(0, old)
    new = IntervalLeaf("Q", leaf[:low])
    new.extend(array("Q", bounds))
    new.extend(leaf[high : half + low])
    new.extend(array("Q", entries))
    new.extend(leaf[half + high :])
    return new


def intervals_in(entries: "array[int]", span: int) -> list[Interval]:
    """The smallest number of intervals with the same entries, except those that are as the span says."""
    found: list[Interval] = []
    start, first, following = 0, entries[0], entries[0]
    for index, entry in enumerate(entries):
        if entry != following:
            if first != span:
                found.append((start, index, first))
            start, first = index, entry
        following = following_entry(entry)
    if first != span:
        found.append((start, len(entries), first))
    return found


def without_stale(intervals: list[Interval], oldest: int, clean: int, keep_none: bool) -> list[Interval]:
    """Without pages below oldest and zeros below clean. keep_none: blocks without any LSN are kept."""
    kept = []
    for start, stop, entry in intervals:
        if entry >= ZERO_FLAG:
            if entry_lsn(entry) >= clean:
                kept.append((start, stop, entry))
        elif not entry:
            if keep_none:
                kept.append((start, stop, entry))
        elif entry + stop - start > oldest:
            # The part of a run that is not below.
            skipped = max(oldest - entry, 0)
            kept.append((start + skipped, stop, entry + skipped))
    return kept

# SPDX-License-Identifier: BSD-3-Clause
"""A leaf of the map as a sorted array of words, one for each of a few blocks: index << 55, the entry's two flags in the
next bits, and the LSN. Other blocks are as the span says (block_map.py)."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from wbcache_core.memory.map_entry import LSN_MASK, REGION_SHIFT, following_entry

SPARSE_BLOCKS = 128
"""The largest number of words in a leaf."""
INDEX_SHIFT = 64 - REGION_SHIFT
WORD_MASK = (1 << INDEX_SHIFT) - 1
"""The flags and the LSN in a word."""
WORD_LSN_MASK = LSN_MASK >> REGION_SHIFT
"""The LSN alone: no device lives to write 2**53 pages."""
_WORD_FLAGS = WORD_MASK - WORD_LSN_MASK
NEXT_BLOCK = 1 << INDEX_SHIFT


def word_of(entry: int) -> int:
    """An entry as in a word, without the index. Its LSN is at most WORD_LSN_MASK."""
    return entry & LSN_MASK | (entry & ~LSN_MASK) >> REGION_SHIFT


def entry_of(word: int) -> int:
    """The entry in a word."""
    return word & WORD_LSN_MASK | (word & _WORD_FLAGS) << REGION_SHIFT


def make(intervals: Iterable[tuple[int, int, int]]) -> "array[int]":
    """A leaf of intervals of data, in order; see interval_leaf.py. Their LSNs are at most WORD_LSN_MASK."""
    words = array("Q")
    for start, stop, lsn in intervals:
        words.extend(index << INDEX_SHIFT | lsn + index - start for index in range(start, stop))
    return words


def words_between(leaf: "array[int]", first: int, stop: int) -> "array[int]":
    """The words of the blocks in [first, stop)."""
    low = bisect_left(leaf, first << INDEX_SHIFT)
    return leaf[low : bisect_left(leaf, stop << INDEX_SHIFT, low)]


def is_all_of_pages(leaf: "array[int]") -> bool:
    """Whether none of the blocks was trimmed or zeroed."""
    return max(map(WORD_MASK.__and__, leaf)) <= WORD_LSN_MASK


def without_pages_below(leaf: "array[int]", oldest: int) -> "array[int]":
    """For a leaf that has only pages."""
    if min(map(WORD_MASK.__and__, leaf)) >= oldest:
        return leaf
    return array("Q", [word for word in leaf if word & WORD_MASK >= oldest])


def intervals_in(leaf: "array[int]") -> list[tuple[int, int, int]]:
    """The smallest number of intervals with the same blocks and entries; see interval_leaf.py."""
    found: list[tuple[int, int, int]] = []
    start, stop, first, following = 0, -1, 0, -1
    for word in leaf:
        index, entry = word >> INDEX_SHIFT, entry_of(word)
        if index == stop and entry == following:
            stop += 1
        else:
            if stop >= 0:
                found.append((start, stop, first))
            start, stop, first = index, index + 1, entry
        following = following_entry(entry)
    if stop >= 0:
        found.append((start, stop, first))
    return found

# SPDX-License-Identifier: BSD-3-Clause
"""Block number -> newest LSN: a hash and ordered list of regions, each with a packed leaf.

A region is 512 blocks (2 MiB). See map_entry.py for what an entry says. A trim or zero of whole regions is one span for
all of them. A region that is written has a leaf above the span; it is one of three:

- sparse: a sorted array of words for up to 128 blocks, 8 bytes each (sparse_leaf.py). Small requests all over a large
  volume leave few blocks in each region;
- intervals: up to 128 of them, 16 bytes each whatever their length (interval_leaf.py). This is what trims of parts of
  a region leave;
- dense: an array of 512 entries, 4 KiB. For a region with more data than fits in a sparse leaf, or with more than 128
intervals; it takes at least dozens of requests to get there.

So every request takes a limited number of bytes here, whatever it is, and the size of the log bounds the map.

Costs: get and set in a dense leaf are two subscripts, O(1), in the others a
bisect more, and with intervals a copy of the leaf; a new region O(log regions); a run of blocks is a slice. Nothing
here locks: callers hold the volume lock.
"""

from array import array
from bisect import bisect_left
from itertools import islice
from typing import TypeAlias

from wbcache_core.memory import interval_leaf, sparse_leaf
from wbcache_core.memory.interval_leaf import Interval, IntervalLeaf
from wbcache_core.memory.map_entry import (
    CLEAR_FLAGS,
    HOLE_FLAG,
    LSN_MASK,
    NO_REGION,
    REGION_BLOCKS,
    REGION_MASK,
    REGION_SHIFT,
    ZERO_FLAG,
    end_of_run,
    entry_lsn,
    kind_of,
)
from wbcache_core.memory.ordered_table import OrderedTable
from wbcache_core.memory.sparse_leaf import INDEX_SHIFT, NEXT_BLOCK, SPARSE_BLOCKS, WORD_LSN_MASK, WORD_MASK

__all__ = (
    "CLEAR_FLAGS", "HOLE_FLAG", "LSN_MASK", "MOST_INTERVALS", "NO_REGION", "REGION_BLOCKS", "REGION_MASK",
    "REGION_SHIFT", "SHORT_RANGE", "SPARSE_BLOCKS", "ZERO_FLAG", "LocationMap", "entry_lsn",
)  # fmt: skip

MOST_INTERVALS = 128
"""A leaf with more of them becomes dense."""
SHORT_RANGE = 4
"""Most blocks of zeros that are put into a sparse leaf; more take less memory as an interval."""
_WORDS_AT_ONCE = 2048
"""Words of leaves that one call of sweep() examines: half a millisecond."""
_REPACK = 32
"""After a sweep, a dense leaf with at most this many intervals, or twice as many blocks of data, is no longer dense."""

Leaf: TypeAlias = "array[int]"

_EMPTY_LEAF = array("Q", bytes(8 * REGION_BLOCKS))
_ENTRY_MASK = (1 << 64) - 1


def _blocks(entry: int, count: int) -> "array[int]":
    """The entries of count blocks from a given one on: of data with the next LSNs, of zeros all equal."""
    return array("Q", [entry]) * count if entry > LSN_MASK else array("Q", range(entry, entry + count))


def _data_blocks(leaf: IntervalLeaf) -> int:
    return sum(stop - start for start, stop, entry in interval_leaf.intervals_of(leaf) if entry <= LSN_MASK)


class LocationMap:
    """See the module. `_leaves` has every leaf, `_dense` the dense ones again.

    The kind of a leaf follows from its type, IntervalLeaf, or otherwise from its length: a dense one has 512 words, a
    sparse one at most 128.
    """

    def __init__(self) -> None:
        self._leaves: OrderedTable[Leaf] = OrderedTable()
        self._dense: dict[int, Leaf] = {}
        self._most_dense = 0
        self._spans: OrderedTable[int] = OrderedTable()
        """First region -> the region after the last << 64 | the entry of all blocks. Spans do not overlap, and each is
        older than the leaves of its regions."""
        self.dropped_below = 0
        """Only entries below this LSN may have been dropped. See sweep()."""
        self.clearings = 0
        """At least about how many trims and zeros it has: what a sweep may free."""

    def __len__(self) -> int:
        """Number of leaves and spans."""
        return len(self._leaves) + len(self._spans)

    @property
    def byte_count(self) -> int:
        """Bytes that the leaves' entries take, without Python's overhead for each leaf."""
        return sum(leaf.itemsize * len(leaf) for leaf in self._leaves.values.values())

    def get(self, block: int) -> int:
        """The entry of a block."""
        leaf = self._dense.get(block >> REGION_SHIFT)
        return self._look_up(block) if leaf is None else leaf[block & REGION_MASK]

    def piece(self, region: int) -> "tuple[int, int | Leaf]":
        """The leaf of a region, or the entry of all its blocks, and the region up to which that holds for all blocks.

        If there is no end, that is NO_REGION.
        """
        leaf = self._leaves.values.get(region)
        if leaf is not None:
            return region + 1, leaf
        stop = min(next(self._leaves.between(region), NO_REGION), next(self._spans.between(region + 1), NO_REGION))
        start = self._spans.at_or_below(region)
        if start is not None:
            span = self._spans.values[start]
            if region < span >> 64:
                return min(stop, span >> 64), span & _ENTRY_MASK
        return stop, 0

    def _span(self, region: int) -> int:
        """What the blocks of a region are that its leaf does not have."""
        start = self._spans.at_or_below(region) if self._spans.values else None
        if start is not None:
            span = self._spans.values[start]
            if region < span >> 64:
                return span & _ENTRY_MASK
        return 0

    def _look_up(self, block: int) -> int:
        """get() in a region without a dense leaf."""
        leaf = self._leaves.values.get(block >> REGION_SHIFT)
        if leaf is None:
            return self._span(block >> REGION_SHIFT)
        index = block & REGION_MASK
        if type(leaf) is IntervalLeaf:
            entry = interval_leaf.find(leaf, index)
            return self._span(block >> REGION_SHIFT) if entry is None else entry
        length = len(leaf)
        if length == REGION_BLOCKS:
            return leaf[index]
        at = bisect_left(leaf, index << INDEX_SHIFT)
        if at < length and leaf[at] >> INDEX_SHIFT == index:
            word = leaf[at] & WORD_MASK
            return word if word <= WORD_LSN_MASK else sparse_leaf.entry_of(word)
        return self._span(block >> REGION_SHIFT)

    def entries(self, block: int, count: int) -> "array[int]":
        """A copy of the entries of count blocks."""
        found = array("Q")
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            dense = self._dense.get(block >> REGION_SHIFT)
            if dense is not None:
                found.extend(dense[index : index + length])
            elif length == 1:
                found.append(self._look_up(block))
            else:
                found.extend(self._unpacked(block >> REGION_SHIFT, index, length))
            block += length
            count -= length
        return found

    def _unpacked(self, region: int, first: int, count: int) -> "array[int]":
        """A copy of some of the 512 entries of a region, from index first on."""
        span, leaf = self._span(region), self._leaves.values.get(region)
        entries = array("Q", [span]) * count if span else _EMPTY_LEAF[:count]
        if type(leaf) is IntervalLeaf:
            for start, stop, entry in interval_leaf.between(leaf, first, first + count):
                entries[start - first : stop - first] = _blocks(entry, stop - start)
        elif leaf is not None and len(leaf) == REGION_BLOCKS:
            return leaf[first : first + count]
        elif leaf is not None:
            for word in sparse_leaf.words_between(leaf, first, first + count):
                entries[(word >> INDEX_SHIFT) - first] = sparse_leaf.entry_of(word)
        return entries

    def run(self, block: int, last: int, oldest: int) -> tuple[int, int]:
        """Where a run of similar blocks from a block on stops, `last` at most, and the entry of the first.

        Blocks are similar if their entries are below oldest, or are pages, or have the same flags. The run may continue
        beyond the stop. The time taken does not grow with the number of blocks outside the run, except those in its
        regions.
        """
        region = block >> REGION_SHIFT
        stop, leaf = self.piece(region)
        first, last = region << REGION_SHIFT, min(last, stop << REGION_SHIFT)
        if isinstance(leaf, int):
            return last, leaf
        index, end = block - first, last - first
        if type(leaf) is IntervalLeaf or len(leaf) == REGION_BLOCKS:
            entries = self._unpacked(region, 0, end) if type(leaf) is IntervalLeaf else leaf
            return first + end_of_run(entries, index, end, oldest), entries[index]
        at = bisect_left(leaf, index << INDEX_SHIFT)
        entry = span = self._span(region)
        if at < len(leaf) and leaf[at] >> INDEX_SHIFT == index:
            entry = sparse_leaf.entry_of(leaf[at] & WORD_MASK)
        kind = kind_of(entry, oldest)
        is_span_alike = kind_of(span, oldest) == kind
        for word in leaf[at:]:
            here = word >> INDEX_SHIFT
            if here >= end or (here > index and not is_span_alike):
                break
            if kind_of(sparse_leaf.entry_of(word & WORD_MASK), oldest) != kind:
                return first + here, entry
            index = here + 1
        return (last if is_span_alike else min(first + index, last)), entry

    def set_page(self, block: int, lsn: int) -> None:
        """One block of data."""
        leaf = self._dense.get(block >> REGION_SHIFT)
        if leaf is None:
            self._insert(block, lsn)
        else:
            leaf[block & REGION_MASK] = lsn

    def _insert(self, block: int, lsn: int) -> None:
        """set_page() in a region without a dense leaf."""
        region, index = block >> REGION_SHIFT, block & REGION_MASK
        leaf = self._leaves.values.get(region)
        word = index << INDEX_SHIFT
        if leaf is None and lsn <= WORD_LSN_MASK:
            self._leaves.put(region, array("Q", (word | lsn,)))
            return
        if leaf is None or type(leaf) is IntervalLeaf or lsn > WORD_LSN_MASK or len(leaf) == REGION_BLOCKS:
            self._set(block, 1, lsn)
            return
        at = bisect_left(leaf, word)
        if at < len(leaf) and leaf[at] >> INDEX_SHIFT == index:
            leaf[at] = word | lsn
        elif len(leaf) < SPARSE_BLOCKS:
            leaf.insert(at, word | lsn)
        else:
            self._set(block, 1, lsn)

    def set_pages(self, newest: dict[int, int]) -> None:
        """Blocks of data, each with its LSN: like set_page() for each, but faster if there are many."""
        blocks = sorted(newest)
        lsns = list(map(newest.__getitem__, blocks))
        most = SPARSE_BLOCKS if max(lsns, default=0) <= WORD_LSN_MASK else 0
        fresh: dict[int, Leaf] = {}
        at = 0
        while at < len(blocks):
            region = blocks[at] >> REGION_SHIFT
            stop = bisect_left(blocks, region + 1 << REGION_SHIFT, at, min(at + REGION_BLOCKS, len(blocks)))
            inside = zip(blocks[at:stop], lsns[at:stop], strict=True)
            if stop - at > most:
                leaf = self._dense_leaf(region)
                for block, lsn in inside:
                    leaf[block & REGION_MASK] = lsn
            elif region in self._leaves.values:
                for block, lsn in inside:
                    self.set_page(block, lsn)
            else:
                fresh[region] = array("Q", [(block & REGION_MASK) << INDEX_SHIFT | lsn for block, lsn in inside])
            at = stop
        self._leaves.put_all(fresh)

    def set_run(self, block: int, count: int, lsn: int) -> None:
        """count blocks of data with consecutive LSNs from lsn."""
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            dense = self._dense.get(block >> REGION_SHIFT)
            if dense is None:
                self._set(block, length, lsn)
            else:
                dense[index : index + length] = array("Q", range(lsn, lsn + length))
            block += length
            lsn += length
            count -= length

    def set_all(self, block: int, count: int, entry: int) -> None:
        """The same entry, of zeros, for count blocks."""
        self.clearings += 1
        first, end = block + REGION_MASK >> REGION_SHIFT, block + count >> REGION_SHIFT
        if end > first:
            self._set_span(first, end, entry)
            self._set(block, (first << REGION_SHIFT) - block, entry)
            self._set(end << REGION_SHIFT, block + count & REGION_MASK, entry)
        else:
            # In at most two regions.
            length = min(count, REGION_BLOCKS - (block & REGION_MASK))
            self._set(block, length, entry)
            self._set(block + length, count - length, entry)

    def _set_span(self, first: int, end: int, entry: int) -> None:
        """The same entry for all blocks of several regions."""
        spans = self._spans
        before = spans.at_or_below(first)
        inside = [*([] if before is None or before == first else [before]), *spans.between(first, end)]
        # If memory runs out in the middle, a look-up finds either the old or the new entry.
        for start in inside:
            span = spans.values[start]
            if start < end < span >> 64:
                spans.put(end, span)
        begin = first
        # A large trim is logged as several consecutive entries.
        if before is not None and before < first and spans.values[before] == first << 64 | entry:
            begin = before
        spans.put(begin, end << 64 | entry)
        for start in inside:
            span = spans.values[start]
            if start < begin < span >> 64:
                spans.put(start, begin << 64 | span & _ENTRY_MASK)
        spans.drop([start for start in inside if begin < start])
        for region in list(self._leaves.between(first, end)):
            self._drop_leaf(region)

    def _set(self, block: int, count: int, entry: int) -> None:
        """Blocks of one region: of data, each with the next LSN, or all with the same entry of zeros."""
        if not count:
            return
        region, index = block >> REGION_SHIFT, block & REGION_MASK
        if region not in self._dense and (
            self._splice(region, index, count, entry) or self._interval(region, index, count, entry)
        ):
            return
        self._dense_leaf(region)[index : index + count] = _blocks(entry, count)

    def _splice(self, region: int, index: int, count: int, entry: int) -> bool:
        """_set() in the sparse leaf of a region.

        Returns False if that leaf is not sparse, would have too many blocks, or another kind is better.
        """
        is_data = entry <= LSN_MASK
        if count > (SPARSE_BLOCKS if is_data else SHORT_RANGE) or (entry & LSN_MASK) + count > WORD_LSN_MASK:
            return False
        leaf = self._leaves.values.get(region)
        if leaf is not None and (type(leaf) is IntervalLeaf or len(leaf) > SPARSE_BLOCKS):
            return False
        first, step = index << INDEX_SHIFT | sparse_leaf.word_of(entry), NEXT_BLOCK + is_data
        words = array("Q", range(first, first + count * step, step))
        if leaf is None:
            self._leaves.put(region, words)
            return True
        low = bisect_left(leaf, index << INDEX_SHIFT)
        high = bisect_left(leaf, index + count << INDEX_SHIFT, low)
        if len(leaf) + count - (high - low) > SPARSE_BLOCKS:
            return False
        leaf[low:high] = words
        return True

    def _interval(self, region: int, index: int, count: int, entry: int) -> bool:
        """_set() as intervals in a region without a dense leaf; returns False if the leaf has to become dense."""
        leaf = self._leaves.values.get(region)
        is_data = entry <= LSN_MASK
        if is_data and count > SPARSE_BLOCKS:
            return False
        if leaf is None:
            self._leaves.put(region, interval_leaf.make([(index, index + count, entry)]))
            return True
        if type(leaf) is not IntervalLeaf and len(leaf) <= SPARSE_BLOCKS and not is_data:
            leaf = interval_leaf.make(sparse_leaf.intervals_in(leaf))
        if type(leaf) is not IntervalLeaf:
            return False
        new = interval_leaf.with_interval(leaf, index, index + count, entry)
        if len(new) > 2 * MOST_INTERVALS or (count > 1 and is_data and _data_blocks(new) > SPARSE_BLOCKS):
            return False
        self._leaves.put(region, new)
        return True

    def _dense_leaf(self, region: int) -> Leaf:
        """The leaf of a region as a dense one."""
        dense = self._dense.get(region)
        if dense is None:
            dense = self._unpacked(region, 0, REGION_BLOCKS)
            self._dense[region] = dense
            try:
                self._leaves.put(region, dense)
            except BaseException:
                del self._dense[region]
                raise
        return dense

    def _drop_leaf(self, region: int) -> None:
        self._dense.pop(region, None)
        self._leaves.drop([region])

    def sweep(self, first_region: int, limit: int, oldest: int, clean: int) -> int | None:
        """Drop pages below oldest and zeros below clean, looking at `limit` leaves and spans from first_region on.

        Fewer if these are large. Returns the region to continue from, or None at the end.

        A dropped entry means that the block is on the origin. So does a page below oldest, and the origin has the zeros
        below clean. A block's entry may thus return to an earlier value: whoever looks at one twice, and has to know
        that nothing was written in between, checks that `dropped_below` is not above what was committed at the first
        look.
        """
        self.dropped_below = max(self.dropped_below, oldest, clean)
        if first_region == 0:
            self.clearings = 0
            self._most_dense = max(self._most_dense, len(self._dense))
        regions = list(islice(self._leaves.keys.irange(first_region), limit + 1))
        starts = list(islice(self._spans.keys.irange(first_region), limit + 1))
        last = min([*regions[limit:], *starts[limit:]], default=None)
        words = 0
        for region in regions:
            if last is not None and region >= last:
                break
            if words > _WORDS_AT_ONCE:
                last = region
                break
            words += self._sweep_leaf(region, oldest, clean)
        stale = []
        for start in starts:
            if last is None or start < last:
                if entry_lsn(self._spans.values.get(start, 0) & _ENTRY_MASK) < clean:
                    stale.append(start)
                else:
                    self.clearings += 1
        self._spans.drop(stale)
        if last is None:
            self._shrink()
        return last

    def _sweep_leaf(self, region: int, oldest: int, clean: int) -> int:
        """Returns how many words it has examined."""
        leaf = self._leaves.values.get(region)
        if leaf is None:
            self._drop_leaf(region)
            return 0
        span, length = self._span(region), len(leaf)
        # Above a span that stays, only an entry tells that a block is on the origin.
        keep_none = span > 0 and entry_lsn(span) >= clean
        is_dense = length == REGION_BLOCKS and type(leaf) is not IntervalLeaf
        if type(leaf) is IntervalLeaf:
            intervals = list(interval_leaf.intervals_of(leaf))
        elif is_dense:
            # Counts the pages to keep exactly, and zeros as if all were kept.
            count = sum(map(oldest.__le__, leaf))
            if count > 2 * _REPACK and max(leaf) <= LSN_MASK:
                return length
            intervals = interval_leaf.intervals_in(leaf, span) if count or keep_none else []
        elif sparse_leaf.is_all_of_pages(leaf) and not keep_none:
            kept_words = sparse_leaf.without_pages_below(leaf, oldest)
            if not kept_words:
                self._drop_leaf(region)
            elif len(kept_words) < length:
                leaf[:] = kept_words
            return length
        else:
            intervals = sparse_leaf.intervals_in(leaf)
        kept = interval_leaf.without_stale(intervals, oldest, clean, keep_none)
        self.clearings += sum(entry > LSN_MASK for _, _, entry in kept)
        if not kept:
            self._drop_leaf(region)
        elif is_dense or kept != intervals:
            self._replace(region, kept, is_dense)
        return length

    def _replace(self, region: int, intervals: list[Interval], is_dense: bool) -> None:
        """After a sweep: the smallest kind of leaf for these."""
        blocks = sum(stop - start for start, stop, entry in intervals if entry <= LSN_MASK)
        if is_dense and (len(intervals) > _REPACK or blocks > 2 * _REPACK):
            return
        highest = max(entry + stop - start for start, stop, entry in intervals)
        is_sparse = blocks <= 2 * len(intervals) and highest <= WORD_LSN_MASK
        self._dense.pop(region, None)
        self._leaves.put(region, sparse_leaf.make(intervals) if is_sparse else interval_leaf.make(intervals))

    def _shrink(self) -> None:
        """Return the memory of tables that have become far too large for their content."""
        self._leaves.shrink()
        self._spans.shrink()
        if 1024 < self._most_dense > 8 * len(self._dense):
            self._dense = dict(self._dense.items())
            self._most_dense = 0

# SPDX-License-Identifier: BSD-3-Clause
"""Block number -> newest LSN: a hash and ordered list of regions, each with a packed leaf.

A region is 512 blocks (2 MiB). An entry is 0 (never written), an LSN (a page
of data), or an LSN with ZERO_FLAG (reads as zeros since that LSN) and perhaps
HOLE_FLAG (it was a trim). A trim or zero of whole
regions is one span for all of them. A region that is written has a leaf above
the span; it is one of two:

- sparse: a sorted array of words, one for each of up to 128 blocks: index << 55,
  the entry's two flags in the next bits, and the LSN. Other blocks are as the
  span says. Small requests all over a large volume leave few blocks in each
  region: 8 bytes per block instead of 4 KiB per region;
- dense: an array of 512 entries.

Costs: get and set in a dense leaf are two subscripts, O(1), in a sparse one a
bisect more; a new region O(log regions); a run of blocks is a slice. Nothing
here locks: callers hold the volume lock.
"""

from array import array
from bisect import bisect_left

from sortedcontainers import SortedDict

from wbcache_core.format.segment import TRIM, ZERO

REGION_SHIFT = 9
REGION_BLOCKS = 1 << REGION_SHIFT
REGION_MASK = REGION_BLOCKS - 1

ZERO_FLAG = 1 << 63
HOLE_FLAG = 1 << 62
LSN_MASK = HOLE_FLAG - 1
CLEAR_FLAGS = {TRIM: ZERO_FLAG | HOLE_FLAG, ZERO: ZERO_FLAG}
"""The flags of a range entry, by its kind."""

NO_REGION = 1 << 64 - REGION_SHIFT
"""After every region."""

SPARSE_BLOCKS = 128
"""A leaf with more blocks than this becomes dense."""
_INDEX_SHIFT = 64 - REGION_SHIFT
_WORD_MASK = (1 << _INDEX_SHIFT) - 1
"""The flags and the LSN in a word of a sparse leaf."""
_WORD_LSN_MASK = LSN_MASK >> REGION_SHIFT
"""The LSN alone: no device lives to write 2**53 pages."""
_WORD_FLAGS = _WORD_MASK - _WORD_LSN_MASK
_NEXT_BLOCK = 1 << _INDEX_SHIFT

_EMPTY_LEAF = array("Q", bytes(8 * REGION_BLOCKS))


def entry_lsn(entry: int) -> int:
    """The LSN of an entry, without its flags; 0 for none."""
    return entry & LSN_MASK


def _newest(leaf: "array[int]") -> int:
    """The highest LSN in a leaf."""
    if len(leaf) < REGION_BLOCKS:
        return max(map(_WORD_LSN_MASK.__and__, leaf))
    highest = max(leaf)
    return highest if highest <= LSN_MASK else max(map(LSN_MASK.__and__, leaf))


def _word_of(entry: int) -> int:
    """An entry as in a word of a sparse leaf, without the index. Its LSN is at most _WORD_LSN_MASK."""
    return entry & LSN_MASK | (entry & ~LSN_MASK) >> REGION_SHIFT


def _entry_of(word: int) -> int:
    """The entry in a word of a sparse leaf."""
    return word & _WORD_LSN_MASK | (word & _WORD_FLAGS) << REGION_SHIFT


def _unpacked(words: "array[int]", first: int, count: int, span: int) -> "array[int]":
    """Some of the 512 entries of a sparse leaf above a span, from index first on."""
    entries = array("Q", [span]) * count if span else _EMPTY_LEAF[:count]
    low = bisect_left(words, first << _INDEX_SHIFT)
    for word in words[low : bisect_left(words, first + count << _INDEX_SHIFT, low)]:
        entries[(word >> _INDEX_SHIFT) - first] = _entry_of(word)
    return entries


def _kind(entry: int, oldest: int) -> int:
    """What makes blocks similar: 0 for the origin, otherwise the flags and a bit."""
    return 0 if entry & LSN_MASK < oldest or not entry else entry >> 62 | 4


def _end_of_run(entries: "array[int]", index: int, end: int, oldest: int) -> int:
    """Where the run of similar entries from an index on stops; looks at twice as many each time."""
    kind = _kind(entries[index], oldest)
    count = 1
    while index < end:
        part = entries[index : min(index + count, end)]
        lowest, highest = min(part), max(part)
        # All similar, without looking at each: nothing here, or nothing but data.
        if not ((highest < oldest and not kind) or (oldest <= lowest and highest <= LSN_MASK and kind == 4)):
            for entry in part:
                if _kind(entry, oldest) != kind:
                    return index
                index += 1
        else:
            index += len(part)
        count *= 2
    return end


class LocationMap:
    """See the module. `regions` has every leaf, `_dense` the dense ones again; piece() also the spans."""

    def __init__(self) -> None:
        self.regions: SortedDict[int, array[int]] = SortedDict()
        self._dense: dict[int, array[int]] = {}
        self._spans: SortedDict[int, tuple[int, int]] = SortedDict()
        """First region -> the region after the last, and the entry of all blocks. Spans do not overlap, and each is
        older than the leaves of its regions."""
        self.sweeps = 0
        """How often sweep() dropped something."""

    def get(self, block: int) -> int:
        """The entry of a block."""
        leaf = self._dense.get(block >> REGION_SHIFT)
        return self._look_up(block) if leaf is None else leaf[block & REGION_MASK]

    def piece(self, region: int) -> tuple[int, "int | array[int]"]:
        """The leaf of a region, or the entry of all its blocks, and the region up to which that holds for all blocks.

        If there is no end, that is NO_REGION.
        """
        leaf = self.regions.get(region)
        if leaf is not None:
            return region + 1, leaf
        stop = next(self.regions.irange(region), NO_REGION)
        index = self._spans.bisect_right(region)
        if index:
            end, entry = self._spans.peekitem(index - 1)[1]
            if region < end:
                return min(stop, end), entry
        return min(stop, self._spans.peekitem(index)[0] if index < len(self._spans) else NO_REGION), 0

    def _leaf(self, region: int) -> "int | array[int]":
        """The leaf of a region, or the entry of all its blocks."""
        leaf = self.regions.get(region)
        return self._span(region) if leaf is None else leaf

    def _span(self, region: int) -> int:
        """What the blocks of a region are that its leaf does not have."""
        index = self._spans.bisect_right(region) if self._spans else 0
        if index:
            end, entry = self._spans.peekitem(index - 1)[1]
            if region < end:
                return entry
        return 0

    def _look_up(self, block: int) -> int:
        """get() in a region without a dense leaf."""
        leaf = self._leaf(block >> REGION_SHIFT)
        if isinstance(leaf, int):
            return leaf
        index = block & REGION_MASK
        at = bisect_left(leaf, index << _INDEX_SHIFT)
        if at < len(leaf) and leaf[at] >> _INDEX_SHIFT == index:
            word = leaf[at] & _WORD_MASK
            return word if word <= _WORD_LSN_MASK else _entry_of(word)
        return self._span(block >> REGION_SHIFT)

    def entries(self, block: int, count: int) -> "array[int]":
        """A copy of the entries of count blocks."""
        found = array("Q")
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            leaf = self._leaf(block >> REGION_SHIFT)
            if isinstance(leaf, int):
                found.extend(array("Q", [leaf]) * length)
            elif len(leaf) == REGION_BLOCKS:
                found.extend(leaf[index : index + length])
            elif length == 1:
                found.append(self._look_up(block))
            else:
                found.extend(_unpacked(leaf, index, length, self._span(block >> REGION_SHIFT)))
            block += length
            count -= length
        return found

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
        if len(leaf) == REGION_BLOCKS:
            return first + _end_of_run(leaf, index, end, oldest), leaf[index]
        at = bisect_left(leaf, index << _INDEX_SHIFT)
        entry = span = self._span(region)
        if at < len(leaf) and leaf[at] >> _INDEX_SHIFT == index:
            entry = _entry_of(leaf[at] & _WORD_MASK)
        kind = _kind(entry, oldest)
        is_span_alike = _kind(span, oldest) == kind
        for word in leaf[at:]:
            here = word >> _INDEX_SHIFT
            if here >= end or (here > index and not is_span_alike):
                break
            if _kind(_entry_of(word & _WORD_MASK), oldest) != kind:
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
        leaf = self.regions.get(region)
        if leaf is None and lsn <= _WORD_LSN_MASK:
            self.regions[region] = array("Q", [index << _INDEX_SHIFT | lsn])
            return
        if leaf is None or len(leaf) == SPARSE_BLOCKS or lsn > _WORD_LSN_MASK:
            self._dense_leaf(region)[index] = lsn
            return
        word = index << _INDEX_SHIFT
        at = bisect_left(leaf, word)
        if at < len(leaf) and leaf[at] >> _INDEX_SHIFT == index:
            leaf[at] = word | lsn
        else:
            leaf.insert(at, word | lsn)

    def set_pages(self, newest: dict[int, int]) -> None:
        """Blocks of data, each with its LSN: like set_page() for each, but faster if there are many."""
        blocks = sorted(newest)
        lsns = list(map(newest.__getitem__, blocks))
        most = SPARSE_BLOCKS if max(lsns, default=0) <= _WORD_LSN_MASK else 0
        fresh: dict[int, array[int]] = {}
        at = 0
        while at < len(blocks):
            region = blocks[at] >> REGION_SHIFT
            stop = bisect_left(blocks, region + 1 << REGION_SHIFT, at, min(at + REGION_BLOCKS, len(blocks)))
            inside = zip(blocks[at:stop], lsns[at:stop], strict=True)
            if stop - at > most:
                leaf = self._dense_leaf(region)
                for block, lsn in inside:
                    leaf[block & REGION_MASK] = lsn
            elif region in self.regions:
                for block, lsn in inside:
                    self.set_page(block, lsn)
            else:
                fresh[region] = array("Q", [(block & REGION_MASK) << _INDEX_SHIFT | lsn for block, lsn in inside])
            at = stop
        self.regions.update(fresh)

    def set_run(self, block: int, count: int, lsn: int) -> None:
        """count blocks of data with consecutive LSNs from lsn."""
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            if not self._splice(block, length, lsn, 1):
                self._dense_leaf(block >> REGION_SHIFT)[index : index + length] = array("Q", range(lsn, lsn + length))
            block += length
            lsn += length
            count -= length

    def set_all(self, block: int, count: int, entry: int) -> None:
        """The same entry, of zeros, for count blocks."""
        first, end = block + REGION_MASK >> REGION_SHIFT, block + count >> REGION_SHIFT
        if end > first:
            self._set_span(first, end, entry)
            self._set_parts(block, (first << REGION_SHIFT) - block, entry)
            self._set_parts(end << REGION_SHIFT, block + count & REGION_MASK, entry)
        else:
            self._set_parts(block, count, entry)

    def _set_span(self, first: int, end: int, entry: int) -> None:
        """The same entry for all blocks of several regions."""
        for region in list(self.regions.irange(first, end, (True, False))):
            del self.regions[region]
            self._dense.pop(region, None)
        spans = self._spans
        before = spans.peekitem(index - 1)[0] if (index := spans.bisect_right(first)) else first
        for start in list(spans.irange(before, end, (True, False))):
            stop, old = spans[start]
            if stop > first:
                del spans[start]
                if start < first:
                    spans[start] = first, old
                if stop > end:
                    spans[end] = stop, old
        # A large trim is logged as several consecutive entries.
        if before < first and spans[before] == (first, entry):
            first = before
        spans[first] = end, entry

    def _set_parts(self, block: int, count: int, entry: int) -> None:
        """set_all() region by region."""
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            region = block >> REGION_SHIFT
            if not self._splice(block, length, entry, 0):
                self._dense_leaf(region)[index : index + length] = array("Q", [entry]) * length
            block += length
            count -= length

    def _splice(self, block: int, count: int, entry: int, step: int) -> bool:
        """Put count blocks of one region in its sparse leaf, each entry `step` more than the last.

        Returns False if that leaf is not sparse, or would have too many blocks for it.
        """
        region = block >> REGION_SHIFT
        if count > SPARSE_BLOCKS or region in self._dense or (entry & LSN_MASK) + count > _WORD_LSN_MASK:
            return False
        index = block & REGION_MASK
        first, between = index << _INDEX_SHIFT | _word_of(entry), _NEXT_BLOCK + step
        words = array("Q", range(first, first + count * between, between))
        leaf = self.regions.get(region)
        if leaf is None:
            self.regions[region] = words
            return True
        low = bisect_left(leaf, index << _INDEX_SHIFT)
        high = bisect_left(leaf, index + count << _INDEX_SHIFT, low)
        if len(leaf) + count - (high - low) > SPARSE_BLOCKS:
            return False
        leaf[low:high] = words
        return True

    def _dense_leaf(self, region: int) -> "array[int]":
        """The leaf of a region as a dense one."""
        dense = self._dense.get(region)
        if dense is None:
            leaf = self._leaf(region)
            if isinstance(leaf, int):
                dense = array("Q", [leaf]) * REGION_BLOCKS if leaf else _EMPTY_LEAF[:]
            else:
                dense = _unpacked(leaf, 0, REGION_BLOCKS, self._span(region))
            self._dense[region] = dense
            try:
                self.regions[region] = dense
            except BaseException:
                del self._dense[region]
                raise
        return dense

    def sweep(self, first_region: int, limit: int, oldest: int) -> int | None:
        """Drop leaves without an entry at or above oldest, looking at `limit` regions from first_region on.

        Returns the region to continue from, or None at the end. A dropped entry
        and one below oldest mean the same: the block is on the origin.
        """
        stale, last = [], None
        for region in self.regions.irange(first_region):
            if limit == 0:
                last = region
                break
            limit -= 1
            leaf = self.regions[region]
            if _newest(leaf) < oldest:
                stale.append(region)
        for region in stale:
            del self.regions[region]
            self._dense.pop(region, None)
        old_spans = [] if last is not None else [
            start for start, (_, entry) in self._spans.items() if entry & LSN_MASK < oldest
        ]  # fmt: skip
        for start in old_spans:
            del self._spans[start]
        self.sweeps += bool(stale or old_spans)
        return last

    def check(self) -> None:
        """Assert the invariants of the structure."""
        for region, leaf in self.regions.items():
            is_dense = len(leaf) == REGION_BLOCKS
            assert self._dense.get(region) is (leaf if is_dense else None)
            if not is_dense:
                indices = [word >> _INDEX_SHIFT for word in leaf]
                assert 0 < len(leaf) <= SPARSE_BLOCKS and indices == sorted(set(indices))
            for entry in leaf if is_dense else map(_entry_of, leaf):
                assert not entry & HOLE_FLAG or entry & ZERO_FLAG
        assert self._dense.keys() <= self.regions.keys()
        end = 0
        for start, (stop, entry) in self._spans.items():
            assert end <= start < stop and (entry & ZERO_FLAG or not entry & HOLE_FLAG)
            end = stop

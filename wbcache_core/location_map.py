# SPDX-License-Identifier: BSD-3-Clause
"""Block number -> newest LSN: a hash and ordered list of regions, each with a packed leaf.

A region is 512 blocks (2 MiB). Its leaf is an array of 512 entries, or one
number where a single trim or zero covers the whole region. An entry is 0
(never written), an LSN (a page of data), or an LSN with ZERO_FLAG (reads as
zeros since that LSN) and perhaps HOLE_FLAG (it was a trim).

Costs: get and set are two subscripts, O(1); a new region O(log regions);
a run of blocks is a slice. Nothing here locks: callers hold the volume lock.
"""

from array import array

from sortedcontainers import SortedDict

REGION_SHIFT = 9
REGION_BLOCKS = 1 << REGION_SHIFT
REGION_MASK = REGION_BLOCKS - 1

ZERO_FLAG = 1 << 63
HOLE_FLAG = 1 << 62
LSN_MASK = HOLE_FLAG - 1

_EMPTY_LEAF = array("Q", bytes(8 * REGION_BLOCKS))


def entry_lsn(entry: int) -> int:
    """The LSN of an entry, without its flags; 0 for none."""
    return entry & LSN_MASK


def _newest(leaf: "int | array[int]") -> int:
    """The highest LSN in a leaf."""
    if isinstance(leaf, int):
        return leaf & LSN_MASK
    highest = max(leaf)
    return highest if highest <= LSN_MASK else max(map(LSN_MASK.__and__, leaf))


class LocationMap:
    """See the module. `regions` may be read by the owner of the volume lock for the fast path of single blocks."""

    def __init__(self) -> None:
        self.regions: SortedDict[int, int | array[int]] = SortedDict()
        self.sweeps = 0
        """How often sweep() dropped something."""

    def get(self, block: int) -> int:
        """The entry of a block."""
        leaf = self.regions.get(block >> REGION_SHIFT, 0)
        return leaf if isinstance(leaf, int) else leaf[block & REGION_MASK]

    def entries(self, block: int, count: int) -> "array[int]":
        """A copy of the entries of count blocks."""
        found = array("Q")
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            leaf = self.regions.get(block >> REGION_SHIFT, 0)
            if isinstance(leaf, int):
                found.extend(array("Q", [leaf]) * length)
            else:
                found.extend(leaf[index : index + length])
            block += length
            count -= length
        return found

    def set_page(self, block: int, lsn: int) -> None:
        """One block of data."""
        leaf = self.regions.get(block >> REGION_SHIFT, 0)
        if isinstance(leaf, int):
            leaf = self._split(block >> REGION_SHIFT, leaf)
        leaf[block & REGION_MASK] = lsn

    def set_run(self, block: int, count: int, lsn: int) -> None:
        """count blocks of data with consecutive LSNs from lsn."""
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            leaf = self.regions.get(block >> REGION_SHIFT, 0)
            if isinstance(leaf, int):
                leaf = self._split(block >> REGION_SHIFT, leaf)
            leaf[index : index + length] = array("Q", range(lsn, lsn + length))
            block += length
            lsn += length
            count -= length

    def set_all(self, block: int, count: int, entry: int) -> None:
        """The same entry, of zeros, for count blocks."""
        while count:
            index = block & REGION_MASK
            length = min(count, REGION_BLOCKS - index)
            region = block >> REGION_SHIFT
            if length == REGION_BLOCKS:
                self.regions[region] = entry
            else:
                leaf = self.regions.get(region, 0)
                if isinstance(leaf, int):
                    leaf = self._split(region, leaf)
                leaf[index : index + length] = array("Q", [entry]) * length
            block += length
            count -= length

    def _split(self, region: int, entry: int) -> "array[int]":
        leaf = array("Q", [entry]) * REGION_BLOCKS if entry else _EMPTY_LEAF[:]
        self.regions[region] = leaf
        return leaf

    def sweep(self, first_region: int, limit: int, oldest: int) -> int | None:
        """Drop leaves without an entry at or above oldest, looking at `limit` regions from first_region on.

        Returns the region to go on from, or None at the end. A dropped entry
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
        self.sweeps += bool(stale)
        return last

    def check(self) -> None:
        """Assert the invariants of the structure."""
        for leaf in self.regions.values():
            assert isinstance(leaf, int) or len(leaf) == REGION_BLOCKS
            for entry in [leaf] if isinstance(leaf, int) else leaf:
                assert not entry & HOLE_FLAG or entry & ZERO_FLAG

# SPDX-License-Identifier: BSD-3-Clause
"""Which regions of the volume the next batch changes, and which were changed while some node may have been away.

Each node with an origin of its own keeps that map, since any of them may be the
one that a node finds when it comes back. It is durable before the batch, so that
at any time a region is in it, or what was written there is still in the log.
"""

from wbcache_core.format.changed_regions import ChangedRegions, shift_for
from wbcache_core.format.superblock import Superblock
from wbcache_core.memory.record_index import Records


class _Regions:
    """What records change; see record_index.Locations."""

    def __init__(self, shift: int) -> None:
        self._shift = shift
        self.numbers: set[int] = set()

    def set_page(self, block: int, _: int) -> None:
        self.numbers.add(block >> self._shift)

    def set_pages(self, entries: dict[int, int]) -> None:
        shift = self._shift
        self.numbers.update({block >> shift for block in entries})

    def set_run(self, block: int, count: int, _: int) -> None:
        self.numbers.update(range(block >> self._shift, (block + count - 1 >> self._shift) + 1))

    def set_all(self, block: int, count: int, _: int) -> None:
        self.set_run(block, count, _)


def with_batch(
    known: ChangedRegions | None, superblock: Superblock, records: Records, end: int, everywhere: int
) -> ChangedRegions:  # fmt: skip
    """The map that has to be durable before a batch is written to the origin that ends at `end` and begins at
    `destaged` of that superblock, the newest; the records are those of the batch.

    `known` is the map so far, None if there is none. Below `everywhere` all nodes have everything on their origins:
    when that reaches up to the batch, what was noted before is not needed any more.
    """
    start, shift = superblock.destaged, shift_for(superblock.origin_bytes)
    found = _Regions(shift)
    records.replay(found)
    is_usable = known and known.shift == shift and known.since <= start <= known.until
    if not known or not is_usable or everywhere >= start:
        known = ChangedRegions(superblock.uuid, shift, start, start)
    return known.with_batch(end, found.numbers)

# SPDX-License-Identifier: BSD-3-Clause
"""What the map says about a block, and how blocks are numbered within regions.

An entry is 0 (never written, or on the origin again), an LSN (a page
of data), or an LSN with ZERO_FLAG (reads as zeros since that LSN) and perhaps
HOLE_FLAG (it was a trim).
"""

from array import array
from collections.abc import Callable, Iterable

from wbcache_core.format.segment import PAGE, TRIM, ZERO, Entry

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


def replay_entries(
    entries: Iterable[Entry], set_page: Callable[[int, int], None], set_all: Callable[[int, int, int], None]
) -> None:
    """Enter those of a segment, in order, into anything with the map's set_page and set_all."""
    for entry in entries:
        if entry.kind == PAGE:
            set_page(entry.block, entry.lsn)
        else:
            set_all(entry.block, entry.blocks, CLEAR_FLAGS[entry.kind] | entry.lsn)


def entry_lsn(entry: int) -> int:
    """The LSN of an entry, without its flags; 0 for none."""
    return entry & LSN_MASK


def following_entry(entry: int) -> int:
    """The entry of the next block in the same interval: for data the next LSN, for zeros the same. -1 after 0."""
    if entry >= ZERO_FLAG:
        return entry
    return entry + 1 if entry else -1


def kind_of(entry: int, oldest: int) -> int:
    """What makes blocks similar: 0 for the origin, otherwise the flags and a bit."""
    return 0 if entry & LSN_MASK < oldest or not entry else entry >> 62 | 4


def end_of_run(entries: "array[int]", index: int, end: int, oldest: int) -> int:
    """Where the run of similar entries from an index on stops; looks at twice as many each time."""
    kind = kind_of(entries[index], oldest)
    count = 1
    while index < end:
        part = entries[index : min(index + count, end)]
        lowest, highest = min(part), max(part)
        # All similar, without looking at each: nothing here, or nothing but data.
        if not ((highest < oldest and not kind) or (oldest <= lowest and highest <= LSN_MASK and kind == 4)):
            for entry in part:
                if kind_of(entry, oldest) != kind:
                    return index
                index += 1
        else:
            index += len(part)
        count *= 2
    return end

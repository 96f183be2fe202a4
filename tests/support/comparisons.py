# SPDX-License-Identifier: BSD-3-Clause
"""What a comparison of two moments has to say, and that nothing is left out of it."""

from tests.support.matching import same
from wbcache_core.units import PAGE_BYTES
from wbcache_core.volume.changed_extents import WORDS, Kind, byte_range

HOLE, DATA = (True, False), (False, False)


def listed(comparison):
    """(kind, first block, number of blocks) of everything that it lists."""
    return [(WORDS[one.kind], one.block, one.block_count) for one in comparison.changes()]


def as_list(comparison, before, after):
    """Fail unless the volume `before` with what is listed is the volume `after`."""
    content, last = bytearray(before), -1
    for change in comparison.changes():
        offset, length = byte_range(change, len(content))
        assert offset > last
        last = offset + length - 1
        assert change.kind is Kind.DATA or not any(after[offset : offset + length])
        content[offset : offset + length] = after[offset : offset + length]
    same(content, after)


def extents_of(export, step=None):
    """All of them, asked about as many bytes at a time."""
    found, position = [], 0
    while position < export.size:
        part = export.extents(min(step or export.size, export.size - position), position, only_one=step is not None)
        assert part and all(length > 0 for _, length, *_ in part)
        for start, length, hole, zero in part:
            assert start == position
            position += length
            found.append((start, length, hole, zero))
    return found


def as_export(export, before, after, step=None):
    """Fail unless the volume `before` with all that is data in the export is the volume `after`, and so is what is read
    from it; nothing may be said to be zero."""
    content, read = bytearray(before), bytearray(export.size)
    export.read_into(read, 0)
    same(read, after)
    for start, length, *kind in extents_of(export, step):
        assert tuple(kind) in (HOLE, DATA)
        if tuple(kind) == DATA:
            content[start : start + length] = read[start : start + length]
    same(content, after)


def changed_blocks(export):
    """The numbers of the blocks that are data."""
    return [
        block
        for start, length, *kind in extents_of(export)
        if tuple(kind) == DATA
        for block in range(start // PAGE_BYTES, -(-(start + length) // PAGE_BYTES))
    ]

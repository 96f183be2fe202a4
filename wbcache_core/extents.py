# SPDX-License-Identifier: BSD-3-Clause
"""Which parts of the volume are data, zeros or holes: the map's entries over the origin's own extents."""

from wbcache_core.block_device import Device, Extent
from wbcache_core.location_map import (
    HOLE_FLAG,
    LSN_MASK,
    REGION_BLOCKS,
    REGION_SHIFT,
    ZERO_FLAG,
    LocationMap,
    entry_lsn,
)
from wbcache_core.number_line import NumberLine
from wbcache_core.units import GIB, PAGE_BYTES, PAGE_SHIFT

_LONGEST = GIB
"""Bytes that one call describes; a client asks again for the rest."""

_ON_ORIGIN = None


def map_extents(line: NumberLine, locations: LocationMap, origin: Device, count: int, offset: int) -> list[Extent]:
    """Contiguous extents from byte offset, of count bytes or fewer. Takes the volume lock, not across I/O."""
    end = min(offset + count, offset + _LONGEST)
    found: list[Extent] = []
    position = offset
    while position < end:
        stop, kind = _next_run(line, locations, position, end)
        if kind is _ON_ORIGIN:
            _extend(found, origin.extents(position, stop - position))
        else:
            _extend(found, [(position, stop - position, *kind)])
        position = stop
    return found


def _next_run(
    line: NumberLine, locations: LocationMap, position: int, end: int
) -> tuple[int, tuple[bool, bool] | None]:
    """Where the run of like blocks that begins at byte position stops, and its (hole, zero) or _ON_ORIGIN."""
    block = position >> PAGE_SHIFT
    last = (end + PAGE_BYTES - 1) >> PAGE_SHIFT
    with line.lock:
        oldest = line.oldest
        region = next(locations.regions.irange(block >> REGION_SHIFT), None)
        if region is None or region << REGION_SHIFT >= last:
            return end, _ON_ORIGIN
        if region << REGION_SHIFT > block:
            return region << REGION_SHIFT + PAGE_SHIFT, _ON_ORIGIN
        length = min(last - block, REGION_BLOCKS - (block & REGION_BLOCKS - 1))
        leaf = locations.regions[region]
        if isinstance(leaf, int):
            return min(end, block + length << PAGE_SHIFT), _kind(leaf, oldest)
        entries = locations.entries(block, length)
    kind = _kind(entries[0], oldest)
    lowest, highest = min(entries), max(entries)
    if highest < oldest or oldest <= lowest <= highest <= LSN_MASK:
        # Alike without a look at each: nothing here, or nothing but data.
        return min(end, block + length << PAGE_SHIFT), kind
    length = next((index for index, entry in enumerate(entries) if _kind(entry, oldest) != kind), len(entries))
    return min(end, block + length << PAGE_SHIFT), kind


def _kind(entry: int, oldest: int) -> tuple[bool, bool] | None:
    if entry_lsn(entry) < oldest:
        return _ON_ORIGIN
    return bool(entry & HOLE_FLAG), bool(entry & ZERO_FLAG)


def _extend(found: list[Extent], more: list[Extent]) -> None:
    """Append, merging neighbours of the same kind."""
    for offset, length, hole, zero in more:
        if found and found[-1][2:] == (hole, zero):
            start, before, _, _ = found[-1]
            found[-1] = start, before + length, hole, zero
        else:
            found.append((offset, length, hole, zero))

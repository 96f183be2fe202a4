# SPDX-License-Identifier: BSD-3-Clause
"""Which blocks of a volume changed between two moments, and what they are at one of these."""

import enum
from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.memory.block_map import (
    HOLE_FLAG,
    NO_REGION,
    REGION_BLOCKS,
    REGION_SHIFT,
    ZERO_FLAG,
    LocationMap,
)
from wbcache_core.units import PAGE_BYTES, PAGE_MASK, PAGE_SHIFT


class Kind(enum.Enum):
    """What blocks are: data, allocated zeros, or a hole. ON_ORIGIN: whatever the origin has there."""

    DATA, ZERO, HOLE, ON_ORIGIN = range(4)


class Change(NamedTuple):
    """Neighbouring blocks of one kind."""

    block: int
    block_count: int
    kind: Kind


def _kind(entry: int) -> Kind:
    if not entry:
        return Kind.ON_ORIGIN
    if entry & HOLE_FLAG:
        return Kind.HOLE
    return Kind.ZERO if entry & ZERO_FLAG else Kind.DATA


def _runs(changed: LocationMap, then: LocationMap) -> Iterator[Change]:
    """Region by region, not merged across them. All entries of both maps are above what the origin has."""
    region = 0
    while region < NO_REGION:
        stop, leaf = changed.piece(region)
        if leaf == 0:
            region = stop
            continue
        first = region << REGION_SHIFT
        until, now = then.piece(region)
        if isinstance(leaf, int) and isinstance(now, int):
            region = min(stop, until)
            yield Change(first, (region << REGION_SHIFT) - first, _kind(now))
            continue
        region += 1
        start, kind = 0, None
        pairs = zip(changed.entries(first, REGION_BLOCKS), then.entries(first, REGION_BLOCKS), strict=True)
        for index, (entry, old) in enumerate(pairs):
            here = _kind(old) if entry else None
            if here is not kind:
                if kind:
                    yield Change(first + start, index - start, kind)
                start, kind = index, here
        if kind:
            yield Change(first + start, REGION_BLOCKS - start, kind)


def _merged(runs: Iterator[Change]) -> Iterator[Change]:
    last = None
    for run in runs:
        if last and last.kind is run.kind and last.block + last.block_count == run.block:
            last = last._replace(block_count=last.block_count + run.block_count)
            continue
        if last:
            yield last
        last = run
    if last:
        yield last


def changes(changed: LocationMap, then: LocationMap, origin: Device | None = None) -> Iterator[Change]:
    """The blocks of `changed`, in order, as they are in `then`; with an origin, as they are there instead of ON_ORIGIN.

    The maps are those of LogHistory, whose entries are all above what the origin has.
    """
    runs = _merged(_runs(changed, then))
    return _merged(_looked_up(runs, origin)) if origin else runs


def _looked_up(runs: Iterator[Change], origin: Device) -> Iterator[Change]:
    for run in runs:
        if run.kind is Kind.ON_ORIGIN:
            yield from _on_origin(run, origin)
        else:
            yield run


def _on_origin(run: Change, origin: Device) -> Iterator[Change]:
    """Whole blocks of zeros are told from the rest; a block that is only partly zero is data."""
    start, end = run.block << PAGE_SHIFT, run.block + run.block_count << PAGE_SHIFT
    block = run.block
    for offset, length, hole, zero in origin.extents(start, min(end, origin.size) - start):
        if not zero:
            continue
        stop = offset + length
        first = offset + PAGE_MASK >> PAGE_SHIFT
        last = run.block + run.block_count if stop == origin.size else stop >> PAGE_SHIFT
        if first < last:
            if block < first:
                yield Change(block, first - block, Kind.DATA)
            yield Change(first, last - first, Kind.HOLE if hole else Kind.ZERO)
            block = last
    if block < run.block + run.block_count:
        yield Change(block, run.block + run.block_count - block, Kind.DATA)


def byte_range(change: Change, volume_bytes: int) -> tuple[int, int]:
    """Offset and length in bytes; the last block of a volume may be cut short."""
    offset = change.block * PAGE_BYTES
    return offset, min(change.block_count * PAGE_BYTES, volume_bytes - offset)

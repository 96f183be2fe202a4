# SPDX-License-Identifier: BSD-3-Clause
"""Which blocks of a volume changed between two moments, and what they are at one of these."""

import enum
from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.memory.block_map import HOLE_FLAG, ZERO_FLAG, LocationMap, entry_lsn
from wbcache_core.units import GIB, PAGE_BYTES, PAGE_MASK, PAGE_SHIFT

_ASKED_BLOCKS = GIB >> PAGE_SHIFT
"""The origin is asked about no more at a time: its answer is in memory."""


class Kind(enum.Enum):
    """What blocks are: data, allocated zeros, or a hole. ON_ORIGIN: whatever the origin has there."""

    DATA, ZERO, HOLE, ON_ORIGIN = range(4)


WORDS = {Kind.DATA: "data", Kind.ZERO: "zero", Kind.HOLE: "hole"}
"""What they are called in lists."""


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


def _runs(changed: LocationMap, then: LocationMap, since: int, blocks: range) -> Iterator[Change]:
    """Not merged."""
    block = blocks.start
    while block < blocks.stop:
        stop, entry = changed.run(block, blocks.stop, since)
        if entry_lsn(entry) < since:
            block = stop
        elif then is changed:
            yield Change(block, stop - block, _kind(entry))
            block = stop
        else:
            while block < stop:
                end, entry = then.run(block, stop, 1)
                yield Change(block, end - block, _kind(entry))
                block = end


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


def changes(
    changed: LocationMap, then: LocationMap, since: int, blocks: range, origin: Device | None = None
) -> Iterator[Change]:
    """Those of a range of blocks which `changed` has from LSN `since` on, in order, as they are in `then`; with an
    origin, as they are there instead of ON_ORIGIN.

    What `then` does not have is on the origin. Neither map changes meanwhile. Takes time linear in the number of
    changes, and no lock.
    """
    runs = _merged(_runs(changed, then, since, blocks))
    return _merged(_looked_up(runs, origin)) if origin else runs


def _looked_up(runs: Iterator[Change], origin: Device) -> Iterator[Change]:
    for run in runs:
        if run.kind is not Kind.ON_ORIGIN:
            yield run
            continue
        end = run.block + run.block_count
        for block in range(run.block, end, _ASKED_BLOCKS):
            yield from _on_origin(Change(block, min(_ASKED_BLOCKS, end - block), run.kind), origin)


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

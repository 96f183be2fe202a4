# SPDX-License-Identifier: BSD-3-Clause
"""The end of a standby's log that the owner does not have: what is in it, and a copy of it.

The copy is a log of its own, a sparse file with the same places: `wbcache info` and `wbcache dump` read it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.device.new_file import new_file, refuse_existing, write_all
from wbcache_core.format.answers import ANSWER_NAMES
from wbcache_core.format.segment import Descriptor
from wbcache_core.format.superblock import SLOT_OFFSETS, Superblock, encode
from wbcache_core.log.reader import LogReader
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import PAGE_SHIFT


class Tail(NamedTuple):
    """LSN `lsn` to `head`; times are ns since 1970, of the first and the last commit of what the log has of it."""

    lsn: int
    head: int
    byte_count: int
    commits: int
    since_ns: int
    until_ns: int
    epoch_number: int
    ack: str | None
    flush: str | None
    """The weakest levels at which writes and flushes may have been answered; None if the log has nothing of it."""
    on_origin: int
    """Up to which LSN the origin of the node has it; 0 if it has nothing of it."""

    @property
    def is_in_log(self) -> bool:
        """Whether the log has any of it."""
        return self.on_origin < self.head


def _descriptors(
    device: Device, superblock: Superblock, table: SegmentTable, lsn: int, head: int
) -> Iterator[tuple[Descriptor, int]]:
    """With their places. Raises DeviceError, DamagedPageError."""
    reader = LogReader(device, superblock.data_pages, superblock.uuid)
    for first_lsn in table.first_lsns_between(lsn, head):
        located = table.locate(first_lsn)
        yield reader.descriptor(located), located.place


def look_at(device: Device, superblock: Superblock, table: SegmentTable, lsn: int, head: int) -> Tail:
    """What is in the log from LSN `lsn`, where a segment begins, to its end; what the origin of the node has is not
    looked for in the log. Raises DeviceError, DamagedPageError."""
    on_origin = superblock.destaged if superblock.destaged > lsn else 0
    found = [one for one, _ in _descriptors(device, superblock, table, max(lsn, on_origin), head)]
    if not found:
        time_ns = superblock.destaged_time_ns
        return Tail(lsn, head, 0, 0, time_ns, time_ns, superblock.epoch.number, None, None, on_origin)
    return Tail(
        lsn, head, sum(one.page_count for one in found) << PAGE_SHIFT, len({one.generation for one in found}),
        found[0].reading.wall_ns, found[-1].reading.wall_ns, found[-1].epoch.number,
        ANSWER_NAMES[min(one.answers.ack for one in found)], ANSWER_NAMES[min(one.answers.flush for one in found)],
        on_origin,
    )  # fmt: skip


def save(device: Device, superblock: Superblock, table: SegmentTable, lsn: int, head: int, target: str) -> None:
    """Copy that part of the log to a new file. Raises ConfigError, DeviceError, DamagedPageError; then there is
    none."""
    refuse_existing(target)
    with new_file(target, "copy of the tail", superblock.log_bytes) as fd:
        reader, first = LogReader(device, superblock.data_pages, superblock.uuid), None
        for descriptor, place in _descriptors(device, superblock, table, lsn, head):
            first = first or (descriptor, place)
            image = aligned_buffer(descriptor.log_pages << PAGE_SHIFT)
            device.read_uncached_into(image, reader.offset_of(place))
            write_all(fd, image, reader.offset_of(place))
        assert first
        begin, place = first
        before = begin
        if lsn > superblock.destaged:
            before = reader.descriptor(table.locate(lsn - 1))
        only = superblock.with_changes(
            oldest=lsn, oldest_place=place, destaged=lsn, destaged_place=place, destaged_previous=begin.previous,
            destaged_generation=max(begin.generation - 1, 0), destaged_time_ns=before.reading.wall_ns,
            batch_end=lsn, committed=head, tags=(), is_copy=True,
        )  # fmt: skip
        for sequence in (len(SLOT_OFFSETS), len(SLOT_OFFSETS) + 1):
            page = encode(only.with_changes(sequence=sequence))
            write_all(fd, memoryview(page), SLOT_OFFSETS[sequence % len(SLOT_OFFSETS)])

# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache rewind`: makes a past moment the present one, by one more generation at the end of the log.

It has every block that changed since, as it was then. Nothing is removed, so
the moment before it is a past moment like any other.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import DeviceError, LogFullError, LogRefusedError, UncommittedError, WbcacheError
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, TRIM, ZERO
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.takeover import FoundData, take_over
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.tools.log_history import LogHistory
from wbcache_core.tools.progress import Progress
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import MIB, PAGE_BYTES, PAGE_SHIFT, format_size
from wbcache_core.volume.changed_extents import Change, Kind, byte_range
from wbcache_core.volume.reader import VolumeReader

_RING_BYTES = MIB
"""A segment and a little more."""
_RANGE_BLOCKS = 1 << 18
"""Blocks of one range entry, as for a client's trim (1 GiB)."""


class Rewound(NamedTuple):
    """What was done: `before` is the generation that was the newest."""

    before: Generation
    target: Generation
    after: Generation
    page_count: int
    cleared_blocks: int


def run_rewind(path: str, when: str, origin: str | None) -> int:
    """Print how it went; returns the exit status. Raises WbcacheError if log or WHEN are invalid."""
    with ExitStack() as stack:
        log = FileDevice(path, "log", direct=True)
        stack.callback(log.close)
        try:
            rewind = Rewind(log, when)
            if rewind.history.uncommitted:
                raise UncommittedError(
                    f"{rewind.history.uncommitted}; nothing has been changed; let one of them take them over first, or "
                    "remove that file to give them up"
                )
            if rewind.is_there_already:
                print(f"the volume is as of {describe(rewind.target)}: there is nothing to rewind")
                return 0
            if origin or rewind.needs_origin:
                rewind.origin = stack.enter_context(rewind.history.paired_origin(origin, log))
        except LogRefusedError as error:
            tell(f"wbcache: {error}")
            return 1
        try:
            done = rewind.perform()
        except DeviceError as error:
            unsure = f"unless generation {rewind.history.recovered.end.generation + 1} is there (wbcache info)"
            tell(f"wbcache: {error}; the volume is as it was, {unsure}")
            return 1
        except WbcacheError as error:
            tell(f"wbcache: {error}; the volume is as it was")
            return 1
    _report(path, done)
    return 0


def _report(path: str, done: Rewound) -> None:
    size = format_size(done.page_count + done.cleared_blocks << PAGE_SHIFT)
    print(
        f"the volume is as of {describe(done.target)} again, from generation {done.after.number} on: {size} in "
        f"{done.page_count} pages and {done.cleared_blocks} cleared blocks were brought back"
    )
    print(
        f"to undo it, as long as the log covers generation {done.before.number}: "
        f"wbcache rewind '{path}' {done.before.number}"
    )


class Rewind:
    """A log, and the moment to which it is to be rewound. Writes nothing before perform()."""

    def __init__(self, log: Device, when: str) -> None:
        """Raises LogRefusedError, MomentError, DeviceError."""
        self._log = log
        self.history = history = LogHistory(log)
        self.target = history.resolve(when)
        self.origin: Device | None = None
        """Set by whoever finds that it is needed."""
        self._head = history.recovered.head
        self._volume_bytes = history.superblock.origin_bytes
        self._then = history.map_at(self.target)
        self._changed = history.map_between(self.target.end_lsn, self._head)

    @property
    def is_there_already(self) -> bool:
        return self.target.end_lsn == self._head

    @property
    def needs_origin(self) -> bool:
        return any(change.kind is Kind.ON_ORIGIN for change in self.history.changes(self._changed, self._then))

    def perform(self) -> Rewound:
        """Append the generation. If it raises WbcacheError, the volume is unchanged."""
        segments, pages, cleared = self._count()
        self._check_room(segments, pages)
        history = self.history
        superblock, end = history.superblock, history.recovered.end
        store = self._give_up_clean_part()
        ring = RingBuffer(_RING_BYTES)
        writer = LogWriter(self._log, superblock.data_pages, superblock.uuid, ring, end, None)
        # If there is no origin, none is needed, and the log stands in for it.
        reader = history.reader(self._then, self.origin or self._log)
        with Progress("rewinding", pages << PAGE_SHIFT) as progress:
            new_end = writer.write_whole(self._segments(ring, reader, progress), self._head, store.reclaimed_place)
        new_head = self._head + pages + segments
        store.write(committed=new_head)
        before = history.recovered.covered.generations.newest
        assert before and before.end_lsn == self._head
        after = Generation(new_end.generation, new_head, new_end.time.wall_ns)
        return Rewound(before, self.target, after, pages, cleared)

    def _changes(self) -> Iterator[Change]:
        """What to append, with ranges no longer than an entry may be."""
        for change in self.history.changes(self._changed, self._then, self.origin):
            if change.kind is Kind.DATA:
                yield change
                continue
            for block in range(change.block, change.block + change.block_count, _RANGE_BLOCKS):
                yield Change(block, min(_RANGE_BLOCKS, change.block + change.block_count - block), change.kind)

    def _parts(self) -> Iterator[tuple[bool, Change]]:
        """What to append, in parts that each fit in one segment, and whether a part begins a new segment."""
        segment = PendingSegment(self._head)
        for change in self._changes():
            block, left = change.block, change.block_count
            while left:
                is_data = change.kind is Kind.DATA
                is_new = not (segment.room if is_data else segment.takes_range)
                if is_new:
                    segment = PendingSegment(segment.end_lsn)
                count = min(left, segment.room) if is_data else left
                part = Change(block, count, change.kind)
                _add(segment, part)
                yield is_new, part
                block, left = block + count, left - count

    def _count(self) -> tuple[int, int, int]:
        """Number of segments, of pages, and of blocks in ranges."""
        segments, pages, cleared = 1, 0, 0
        for is_new, part in self._parts():
            segments += is_new
            if part.kind is Kind.DATA:
                pages += part.block_count
            else:
                cleared += part.block_count
        return segments, pages, cleared

    def _check_room(self, segments: int, pages: int) -> None:
        """Raises LogFullError."""
        superblock = self.history.superblock
        place = self.history.recovered.end.place
        free = superblock.data_pages - (place - superblock.destaged_place)
        # Room for a segment is left for later writers.
        needed = pages + segments + MAX_SEGMENT_PAGES
        if needed > superblock.data_pages - place % superblock.data_pages:
            # What may stay unused before the end of the log.
            needed += MAX_SEGMENT_PAGES
        if needed > free:
            raise LogFullError(
                f"going back to {describe(self.target)} needs {format_size(needed * PAGE_BYTES)} of free log, and log "
                f"'{self._log.name}' has {format_size(free * PAGE_BYTES)}; a later moment may need less; or copy that "
                f"moment (nbdcopy from the export @{self.target.number}) and write the copy over the volume"
            )

    def _give_up_clean_part(self) -> SuperblockStore:
        """As a server does at start, before anything is written after the end of the log. Raises DeviceError."""
        history, superblock = self.history, self.history.superblock
        store = SuperblockStore(self._log, history.slots)
        oldest, oldest_place = superblock.destaged, superblock.destaged_place
        changes = {"oldest": oldest, "oldest_place": oldest_place, "committed": self._head}
        take_over(self._log, store, FoundData(), history.recovered.end.place, **changes)
        return store

    def _segments(self, ring: RingBuffer, reader: VolumeReader, progress: Progress) -> Iterator[PendingSegment]:
        """Full segments, except the last: that is how the end of a generation is recognised."""
        segment = PendingSegment(self._head)
        for is_new, part in self._parts():
            if is_new:
                yield segment
                segment = PendingSegment(segment.end_lsn)
            if part.kind is Kind.DATA:
                pages = bytearray(part.block_count * PAGE_BYTES)
                offset, length = byte_range(part, self._volume_bytes)
                reader.read_into(memoryview(pages)[:length], offset)
                ring.copy_in(segment.end_lsn, part.block, pages)
                progress.advance(len(pages))
            _add(segment, part)
        yield segment


def _add(segment: PendingSegment, part: Change) -> None:
    if part.kind is Kind.DATA:
        segment.add_pages(part.block, part.block_count)
    else:
        segment.add_range(TRIM if part.kind is Kind.HOLE else ZERO, part.block, part.block_count)

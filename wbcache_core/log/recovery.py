# SPDX-License-Identifier: BSD-3-Clause
"""Rebuilds cursors, segment table and map from a log. Reads only; docs/recovery.md has the table of cases.

Recovery starts at `destaged`, not at `oldest`: what the origin already has is
served from the origin, so nobody who used the origin on its own after a clean
stop ever reads older data from the log.
"""

import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DamagedLogError, DamagedPageError, FormatError, LaterVersionError, LogVersionError
from wbcache_core.format.segment import (
    MAX_SEGMENT_PAGES,
    Descriptor,
    claimed_committed,
    decode,
)
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.epochs import EpochOrder, was_cut_off
from wbcache_core.log.geometry import COMMIT_PAGES, LogEnd, fit, next_places
from wbcache_core.log.reader import LogReader, page_views
from wbcache_core.log.window import LogWindow
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.map_entry import replay_entries
from wbcache_core.memory.policy import Policy
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.memory.segment_table import Located, SegmentTable
from wbcache_core.units import PAGE_BYTES

_SEARCH_PAGES = 2 * COMMIT_PAGES + 2 * MAX_SEGMENT_PAGES
"""How far beyond the end later segments are searched: the commit at the end and the one after it."""


class Found(NamedTuple):
    """A segment of the chain."""

    descriptor: Descriptor
    place: int
    log_pages: int

    @property
    def end_place(self) -> int:
        return self.place + self.log_pages

    @property
    def located(self) -> Located:
        return Located(self.descriptor.first_lsn, self.place, bool(self.descriptor.encoding))


class Recovered(NamedTuple):
    """The state of the cache as the log tells it."""

    first: Found | None
    last: Found | None
    page_count: int
    """Pages of data in the segments from first to last."""
    table: SegmentTable
    locations: LocationMap
    head: int
    end: LogEnd
    discarded_lsn: int | None
    """First LSN of a torn last write that was left out, if there was one."""
    covered: CoveredLog
    """The moments that can be opened."""


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """The cyclic garbage collector is off meanwhile: there are millions of objects and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _SoundChain:
    """The segments that are taken, as the server keeps them. Descriptors need ten times as much memory, so they are
    kept only if the caller asks for them."""

    def __init__(self, superblock: Superblock, kept: list[Found] | None) -> None:
        self._superblock = superblock
        self._kept = kept
        self.table = SegmentTable()
        self.covered = CoveredLog(superblock.origin_bytes)
        self.first: Found | None = None
        self.last: Found | None = None

    def append(self, found: Found) -> None:
        """The segment that follows the last one."""
        descriptor = found.descriptor
        if self.first is None:
            self._begin(descriptor)
            self.first = found
        self.table.append(descriptor.first_lsn, found.place, descriptor.encoding, descriptor.page_sums)
        self.covered.append(descriptor)
        self.last = found
        if self._kept is not None:
            self._kept.append(found)

    def _begin(self, first: Descriptor | None) -> None:
        """Note the generation that the origin has, if `destaged` is its end and not inside the commit after it."""
        superblock = self._superblock
        if superblock.destaged_time_ns and (first is None or begins_commit(superblock, first)):
            self.covered.generations.append(
                superblock.destaged_generation, superblock.destaged, Reading(superblock.destaged_time_ns)
            )

    @property
    def head(self) -> int:
        return self.last.descriptor.end_lsn if self.last else self._superblock.destaged

    @property
    def end(self) -> LogEnd:
        superblock = self._superblock
        if self.last is None:
            return LogEnd(
                superblock.destaged_place,
                superblock.destaged_previous,
                superblock.destaged_generation,
                Reading(superblock.destaged_time_ns),
            )
        descriptor = self.last.descriptor
        return LogEnd(self.last.end_place, descriptor.checksum, descriptor.generation, descriptor.reading)

    def recovered(self, discarded_lsn: int | None) -> Recovered:
        """All segments are here."""
        locations = LocationMap()
        if self.first is None:
            self._begin(None)
        else:
            self.covered.records.between(self.first.descriptor.first_lsn, self.head).replay(locations)
        # Each segment takes an LSN of its own.
        page_count = self.head - self._superblock.destaged - len(self.table)
        # The origin may have parts of what is below.
        self.covered.generations.drop_below(self._superblock.batch_end)
        return Recovered(
            self.first, self.last, page_count, self.table, locations, self.head, self.end, discarded_lsn, self.covered
        )


@_no_collection()
def recover(
    device: Device,
    reader: LogReader,
    superblock: Superblock,
    kept: list[Found] | None = None,
    reads_ahead: bool = False,
) -> Recovered:
    """What the log holds from superblock.destaged on; the segments themselves are added to `kept`.

    With reads_ahead a second thread reads from the device, including data that nobody needs. Raises DamagedLogError,
    DeviceError.
    """
    sound = _SoundChain(superblock, kept)
    known = superblock.committed
    unsure: deque[Found] = deque()
    with LogWindow(device, reader, superblock.data_pages, reads_ahead) as window:
        for found in _chain(window, superblock):
            known = max(known, found.descriptor.committed)
            unsure.append(found)
            while unsure and unsure[0].descriptor.first_lsn < known:
                sound.append(unsure.popleft())
        discarded = _take_whole(reader, unsure, sound)
        end, head = sound.end, sound.head
        if not superblock.is_inconsistent:
            # The log of a standby may have begun anew below its end, with the remains of the other one in its place. As
            # long as its origin is filled, what is missing is had from the owner.
            known = max(known, _committed_according_to_later_segments(window, superblock, end.place, head))
    if known > head:
        raise DamagedLogError(
            f"log '{device.name}' is damaged at LSN {head} (byte {reader.offset_of(end.place)}): what was durable "
            f"up to LSN {known} cannot be read back, so {known - head} pages or more are lost; nothing has been "
            f"changed; {superblock.describe_origin()}; restore the log device, save what can be had with wbcache "
            "salvage, or give up what is in the log with force=discard-log"
        )
    return sound.recovered(discarded)


def begins_commit(superblock: Superblock, first: Descriptor) -> bool:
    """Whether `destaged`, where that segment begins, is the end of the generation that the origin has, and not inside
    the commit after it."""
    # All segments of a commit say where the commit before it ended.
    return first.committed == first.first_lsn and first.generation == superblock.destaged_generation + 1


def without_segments(superblock: Superblock) -> Recovered:
    """What recover() finds in a log that ends at `destaged`."""
    return _SoundChain(superblock, None).recovered(None)


def from_oldest(reader: LogReader, superblock: Superblock) -> Superblock | None:
    """A superblock with which recover() begins at `oldest`, so that the clean segments are among those it finds.

    None if the first of them cannot be read back. Raises DeviceError.
    """
    for place in next_places(superblock.oldest_place, superblock.data_pages):
        with contextlib.suppress(DamagedPageError):
            first = reader.descriptor(Located(superblock.oldest, place, False))
            return superblock.with_changes(
                destaged=superblock.oldest, destaged_place=superblock.oldest_place, destaged_previous=first.previous
            )
    return None


def _chain(window: LogWindow, superblock: Superblock) -> Iterator[Found]:
    """Valid descriptors from `destaged` on, each containing the checksum of the one before."""
    lsn, place, previous = superblock.destaged, superblock.destaged_place, superblock.destaged_previous
    limit = superblock.destaged_place + superblock.data_pages
    order = EpochOrder(superblock)
    while found := _next_segment(window, superblock, order, lsn, place, previous, limit):
        descriptor = found.descriptor
        window.expect(found.log_pages)
        lsn, place, previous = lsn + 1 + descriptor.page_count, found.place + found.log_pages, descriptor.checksum
        yield found


def _next_segment(
    window: LogWindow, superblock: Superblock, order: EpochOrder, lsn: int, place: int, previous: int, limit: int
) -> Found | None:
    """The segment with that first LSN, at `place` or, if the largest segment would not fit there, at the next lap."""
    for candidate in next_places(place, superblock.data_pages):
        if candidate >= limit:
            continue
        try:
            descriptor = decode(window.page(candidate))
        except LaterVersionError as error:
            if error.uuid == superblock.uuid:
                raise LogVersionError(
                    f"the log goes on at LSN {lsn} with what a newer wbcache wrote ({error}); use that version, and "
                    "drain the log with it (wbcache replay) before an older one is used"
                ) from None
            continue
        except FormatError:
            continue
        log_pages = descriptor.log_pages
        if (
            descriptor.previous == previous
            and descriptor.first_lsn == lsn
            and descriptor.uuid == superblock.uuid
            and candidate + log_pages <= limit
            and fit(candidate, log_pages, superblock.data_pages) == candidate
            and order.admits(lsn, previous, descriptor.epoch)
        ):
            return Found(descriptor, candidate, log_pages)
    return None


def _take_whole(reader: LogReader, unsure: Iterable[Found], sound: _SoundChain) -> int | None:
    """Take segments up to the first whose pages did not all arrive; returns its LSN.

    Only segments that nothing confirms as synced may be torn. A bad page in any other is damage at rest, which is found
    when that page is read or destaged. Raises DeviceError.
    """
    for found in unsure:
        if not is_whole(reader, found):
            return found.descriptor.first_lsn
        sound.append(found)
    return None


def is_whole(reader: LogReader, found: Found) -> bool:
    """Whether every page of a segment matches its checksum. Raises DeviceError."""
    descriptor = found.descriptor
    image = aligned_buffer((1 + descriptor.page_count) * PAGE_BYTES)
    try:
        reader.load([found.located], descriptor.end_lsn, image, descriptor.first_lsn)
    except DamagedPageError:
        return False
    sums = list(map(xxh3_64_intdigest, page_views(image[PAGE_BYTES:])))
    return sums == list(descriptor.page_sums)


def _committed_according_to_later_segments(window: LogWindow, superblock: Superblock, place: int, head: int) -> int:
    """The highest `committed` in any valid descriptor of this volume beyond the end, at least `head`.

    Remains of older laps have lower ones, and so does anything that was written but not yet synced. What a standby cut
    off may have higher ones.
    """
    highest = head
    last = min(place + _SEARCH_PAGES, superblock.destaged_place + superblock.data_pages)
    for page in window.pages_with_magic(place, last):
        # Most are from older laps: only a value that would matter is worth decoding the descriptor.
        if claimed_committed(page) <= highest:
            continue
        try:
            descriptor = decode(page)
        except FormatError:
            continue
        if descriptor.uuid == superblock.uuid and not was_cut_off(superblock, descriptor.epoch, descriptor.first_lsn):
            highest = max(highest, descriptor.committed)
    return highest


def line_of(
    superblock: Superblock,
    recovered: Recovered | None,
    ring_pages: int,
    policy: Policy,
    carry_pages: int = 0,
    volatile_pages: int | None = None,
) -> NumberLine:
    """The number line of a log as it stands before anything is written: all of it is durable, nothing is in the ring.

    `recovered` is None for a log that is not formatted yet.
    """
    line = NumberLine(ring_pages, superblock.data_pages, policy, carry_pages, volatile_pages)
    line.committed = line.destaged = line.oldest = line.head = superblock.destaged
    line.destaged_place = line.write_place = superblock.destaged_place
    line.reclaimed_place = superblock.oldest_place
    if recovered:
        line.committed = line.head = recovered.head
        line.write_place = recovered.end.place
    line.ring_start = line.head
    if line.head > line.destaged:
        line.timeline.append((line.head, time.monotonic()))
    return line


def apply_entries(
    descriptor: Descriptor, set_page: Callable[[int, int], None], set_all: Callable[[int, int, int], None]
) -> None:
    """Replay a segment's entries, in order, into anything with the map's set_page and set_all."""
    if not descriptor.has_ranges:
        for lsn, block in enumerate(descriptor.entry_words, descriptor.first_lsn + 1):
            set_page(block, lsn)
        return
    replay_entries(descriptor.entries(), set_page, set_all)

# SPDX-License-Identifier: BSD-3-Clause
"""What a ring in shared memory has beyond the end of the log: reads both, and changes nothing.

A server that was killed leaves there what it had acknowledged. Its number line
is that of the log, so the two are joined where recovery finds the end of the
log: at a commit that the ring knows of, or at a segment that the killed server
had prepared and that reached the log whole. docs/shared-ring.md has the cases.
"""

from collections.abc import Callable
from typing import NamedTuple

from wbcache_core.errors import FormatError
from wbcache_core.format.segment import (
    BLOCK_MASK,
    KIND_SHIFT,
    MAX_ENTRIES,
    TRIM,
    ZERO,
    decode,
    entries_of,
)
from wbcache_core.format.shared_ring import HEAD, SEGMENT_WORD, Anchor
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.map_entry import replay_entries
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring_journal import RingJournal
from wbcache_core.units import pages_of


class RingContent(NamedTuple):
    """Everything since the last commit that the ring knows of."""

    anchor: Anchor
    head: int
    segments: list[PendingSegment]

    def beyond(self, end: int) -> list[PendingSegment]:
        """The segments from the end of the log on."""
        return [segment for segment in self.segments if segment.first_lsn >= end]


def read_ring(journal: RingJournal, ring_pages: int, volume_bytes: int) -> RingContent:
    """Raises FormatError if no server can have left it like this."""
    anchor, head = journal.anchor, journal.state[HEAD]
    if not 1 <= anchor.lsn <= head <= anchor.lsn + ring_pages:
        raise FormatError(f"it says that LSN {anchor.lsn} is committed and {head} is the next one")
    segments = _segments(journal, anchor.lsn, head)
    _add_ranges(segments, journal.ranges_from(anchor.lsn), head)
    _check(segments, pages_of(volume_bytes))
    if segments and not segments[-1].entry_words:
        # Its server was killed before it had anything to put into it.
        head = segments.pop().first_lsn
    return RingContent(anchor, head, segments)


def _segments(journal: RingJournal, lsn: int, head: int) -> list[PendingSegment]:
    """With their pages only. Raises FormatError."""
    if lsn == head:
        return []
    words = journal.words(lsn, head - lsn)
    starts = [index for index, word in enumerate(words) if word == SEGMENT_WORD]
    if not starts or starts[0]:
        raise FormatError(f"LSN {lsn} does not begin a segment")
    segments = []
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        segment = PendingSegment(lsn + start)
        segment.entry_words = words[start + 1 : end].tolist()
        segments.append(segment)
    return segments


def _add_ranges(segments: list[PendingSegment], ranges: list[tuple[int, int, int]], head: int) -> None:
    """Put each behind the page at whose LSN it stands. Raises FormatError."""
    places = [lsn for _, _, lsn in ranges]
    if places != sorted(places) or (places and places[-1] >= head):
        raise FormatError("its trims and zeros are not in order")
    at = 0
    for segment in segments:
        end_lsn, pages = segment.end_lsn, segment.entry_words
        if at == len(ranges) or ranges[at][2] >= end_lsn:
            continue
        segment.entry_words, taken = [], 0
        while at < len(ranges) and ranges[at][2] < end_lsn:
            head_word, count, lsn = ranges[at]
            before = lsn - segment.first_lsn
            segment.entry_words += pages[taken:before]
            taken = before
            segment.ranges[len(segment.entry_words)] = count
            segment.entry_words.append(head_word)
            at += 1
        segment.entry_words += pages[taken:]


def _check(segments: list[PendingSegment], volume_pages: int) -> None:
    """Raises FormatError."""
    for segment in segments:
        ends = [
            (head & BLOCK_MASK) + segment.ranges[index] if index in segment.ranges else head + 1
            for index, head in enumerate(segment.entry_words)
        ] if segment.ranges else [max(segment.entry_words, default=0) + 1]  # fmt: skip
        kinds = {segment.entry_words[index] >> KIND_SHIFT for index in segment.ranges}
        if len(segment.entry_words) > MAX_ENTRIES or max(ends, default=0) > volume_pages or not kinds <= {TRIM, ZERO}:
            raise FormatError(f"the segment at LSN {segment.first_lsn} is impossible")


def joins(content: RingContent, end: int, checksum: int, slot: Callable[[int], memoryview]) -> bool:
    """Whether the log that ends at LSN `end`, with a descriptor of that checksum, is the one that the ring continues.

    `slot` returns the page of an LSN in the ring.
    """
    if end == content.anchor.lsn:
        return checksum == content.anchor.checksum
    last = next((segment for segment in content.segments if segment.end_lsn == end), None)
    if last is None:
        return False
    try:
        # The killed server had prepared it, and may have lived to see it durable.
        return decode(slot(last.first_lsn)).checksum == checksum
    except FormatError:
        return False


def replay(segments: list[PendingSegment], locations: LocationMap) -> None:
    """Enter them in a map that ends where they begin."""
    for segment in segments:
        if not segment.ranges:
            for lsn, block in enumerate(segment.entry_words, segment.first_lsn + 1):
                locations.set_page(block, lsn)
            continue
        entries = entries_of(segment.first_lsn, segment.entry_words, segment.arguments([0] * segment.page_count))
        replay_entries(entries, locations.set_page, locations.set_all)

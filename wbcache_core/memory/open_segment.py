# SPDX-License-Identifier: BSD-3-Clause
"""A segment that is being filled in the ring, before its descriptor is written."""

from wbcache_core.format.segment import KIND_SHIFT, MAX_ENTRIES
from wbcache_core.memory.policy import RAM

MAX_RANGES_PER_PAGE = 4
"""Range entries allowed for each page of log that a segment takes. They take no page themselves, but memory for as long
as they are in the log, so this bounds the memory for a GiB of log."""


class PendingSegment:
    """Entries in the order of the number line. Guarded by the volume lock until it is closed.

    `entry_words` are the first words of the entries; whoever writes a single page appends its block to them directly.
    """

    __slots__ = ("ack", "entry_words", "first_lsn", "ranges")

    def __init__(self, first_lsn: int, ack: int = RAM) -> None:
        self.first_lsn = first_lsn
        self.ack = ack
        """The weakest level at which a request with something in it may be answered before the log has it; see
        answer_at(). What another server left may have been answered at any level."""
        self.entry_words: list[int] = []
        self.ranges: dict[int, int] = {}

    @property
    def page_count(self) -> int:
        return len(self.entry_words) - len(self.ranges)

    @property
    def end_lsn(self) -> int:
        """The LSN after the last page."""
        return self.first_lsn + 1 + len(self.entry_words) - len(self.ranges)

    @property
    def room(self) -> int:
        """How many more entries fit."""
        return MAX_ENTRIES - len(self.entry_words)

    @property
    def takes_range(self) -> bool:
        """Whether a range entry fits."""
        return bool(self.room) and len(self.ranges) < MAX_RANGES_PER_PAGE * (1 + self.page_count)

    def answer_at(self, level: int) -> None:
        """Something in it may be answered at that level. Called under the hold of the lock under which it was added, or
        under which the policy becomes weaker."""
        if level < self.ack:
            self.ack = level

    def add_pages(self, block: int, count: int) -> None:
        """count pages of consecutive blocks, with the next LSNs."""
        self.entry_words.extend(range(block, block + count))

    def add_range(self, kind: int, block: int, count: int) -> None:
        """A trim or zero of count blocks, at the last LSN."""
        index = len(self.entry_words)
        self.entry_words.append(kind << KIND_SHIFT | block)
        try:
            self.ranges[index] = count
        except BaseException:
            self.entry_words.pop()
            raise

    def cut(self, end_lsn: int) -> None:
        """Remove the pages from end_lsn on, which are the last entries: the request that added them has failed."""
        while self.end_lsn > end_lsn:
            self.entry_words.pop()

    def arguments(self, page_sums: list[int]) -> list[int]:
        """The descriptor's argument of each entry."""
        if not self.ranges:
            return page_sums
        sums = iter(page_sums)
        ranges = self.ranges
        return [ranges[index] if index in ranges else next(sums) for index in range(len(self.entry_words))]

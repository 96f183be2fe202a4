# SPDX-License-Identifier: BSD-3-Clause
"""What lies beside the ring's pages: which block each is of, which ranges were cleared, and where the line ends.

In shared memory it outlives the process, and the next server rebuilds from it
what was acknowledged and not yet committed (log/ring_recovery.py). A server
whose ring is private writes it all the same: the path of a write has no branch.

**Order.** What is in shared memory when a process is killed is whatever its
threads had stored. Every thread stops between two instructions of its own, so
of each the stores up to some point of the program are there and no later ones,
on every processor: one that reorders stores still completes all that come
before the instruction at which the thread is stopped. All stores but those of
the anchor are made with the volume lock held, so what one thread stored before
it released the lock is there if anything is that another stored later. Hence
the rule: first the page, then its word, then the map, at last `head`, in one
store of 8 aligned bytes. Whatever is below `head` is whole.
"""

import sys
from array import array

from wbcache_core.errors import FormatError
from wbcache_core.format.shared_ring import (
    HEAD,
    RANGE_WORDS,
    RANGES,
    SEGMENT_WORD,
    Anchor,
    Layout,
    read_anchor,
    write_anchor,
)
from wbcache_core.units import PAGE_BYTES

HAS_WHOLE_STORES = sys.maxsize > 2**32
"""Whether a word of 8 bytes is stored at once."""


class RingJournal:
    """Views of one buffer. Guarded by the volume lock, except the anchor, which belongs to the leader of a commit."""

    def __init__(self, buffer: memoryview, layout: Layout) -> None:
        """`buffer` is what the layout calls the journal."""
        self._pages = layout.ring_pages
        self._range_count = layout.range_count
        self.header = buffer[:PAGE_BYTES]
        self.state = buffer[layout.state_at : layout.blocks_at].cast("Q")
        """`state[HEAD]` is the head of the line as the next server will see it."""
        self.blocks = buffer[layout.blocks_at : layout.blocks_at + 8 * layout.ring_pages].cast("Q")
        """The word of each slot: the block of its page, or SEGMENT_WORD."""
        ranges_end = layout.ranges_at + 8 * RANGE_WORDS * layout.range_count
        self.ranges = buffer[layout.ranges_at : ranges_end].cast("Q")

    @property
    def anchor(self) -> Anchor:
        return read_anchor(self.state)

    def begin(self, head: int, anchor: Anchor) -> None:
        """An empty ring: everything below head is in the log."""
        self.state[HEAD] = head
        write_anchor(self.state, anchor)

    def note_commit(self, anchor: Anchor) -> None:
        """The log has everything below the anchor. To be called before the slots below it may be used again."""
        write_anchor(self.state, anchor)

    def note_pages(self, lsn: int, block: int, count: int) -> None:
        """The pages from lsn on are of consecutive blocks. Not published yet."""
        slot = lsn % self._pages
        words = array("Q", range(block, block + count))
        first = min(count, self._pages - slot)
        self.blocks[slot : slot + first] = words[:first]
        if first < count:
            self.blocks[: count - first] = words[first:]

    def note_segment(self, lsn: int) -> None:
        """lsn is that of a descriptor. Not published yet."""
        self.blocks[lsn % self._pages] = SEGMENT_WORD

    def note_range(self, head_word: int, count: int, lsn: int) -> None:
        """A trim or zero (`kind << 56 | block`) of count blocks stands at lsn, which is below the published head."""
        state = self.state
        number = state[RANGES]
        at = number % self._range_count * RANGE_WORDS
        for index, word in enumerate((head_word, count, lsn, number), at):
            self.ranges[index] = word
        # As of a page: last of all it comes into being.
        state[RANGES] = number + 1

    def words(self, lsn: int, count: int) -> "array[int]":
        """The words of count LSNs from lsn."""
        slot = lsn % self._pages
        first = min(count, self._pages - slot)
        found = array("Q", self.blocks[slot : slot + first].tobytes())
        found.frombytes(self.blocks[: count - first].tobytes())
        return found

    def ranges_from(self, lsn: int) -> list[tuple[int, int, int]]:
        """(kind << 56 | block, count, LSN) of the ranges at lsn or later, in order. Raises FormatError."""
        end, found = self.state[RANGES], []
        for number in range(end - 1, max(end - self._range_count, 0) - 1, -1):
            at = number % self._range_count * RANGE_WORDS
            head_word, count, stands_at, own_number = self.ranges[at : at + RANGE_WORDS]
            if own_number != number:
                raise FormatError("its trims and zeros are not in order")
            if stands_at < lsn:
                break
            found.append((head_word, count, stands_at))
        return found[::-1]

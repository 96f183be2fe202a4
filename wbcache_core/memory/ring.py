# SPDX-License-Identifier: BSD-3-Clause
"""The RAM ring: one page-aligned mapping of page slots, slot = LSN mod ring pages.

The ring knows nothing of cursors or locks: its users agree on who may touch
which LSN (docs/concurrency.md). It is an exact image of the end of an
uncompressed log, descriptors included. Beside it is a journal of what the pages
are; both may be in memory that outlives the process.
"""

import contextlib
import ctypes
import mmap

from wbcache_core.errors import ConfigError
from wbcache_core.format.shared_ring import HEAD, Layout
from wbcache_core.memory import memory_limit
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.ring_journal import RingJournal
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, format_size

_MADV_POPULATE_WRITE = 23
"""Linux 5.14; Python's mmap has no name for it."""

# mmap.madvise() keeps the interpreter, which is too long for much memory.
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _anonymous(byte_count: int) -> mmap.mmap:
    """Private memory of zeros, which the kernel provides as it is used."""
    return mmap.mmap(-1, byte_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class RingBuffer:
    """`pages` slots of 4096 bytes."""

    def __init__(self, byte_count: int, volatile_pages: int | None = None) -> None:
        """At most volatile_pages, by default all, are not committed. Raises ConfigError if there is not enough
        memory."""
        memory = memory_limit.available()
        if byte_count > memory.byte_count // 2:
            raise ConfigError(
                f"ring-size {format_size(byte_count)} is more than half of the memory of {memory.whose} "
                f"({format_size(memory.byte_count)}); choose a smaller ring-size"
            )
        self.pages = byte_count >> PAGE_SHIFT
        self._bytes = self.pages << PAGE_SHIFT
        self.volatile_pages = min(volatile_pages or self.pages, self.pages)
        self._release_advice = mmap.MADV_DONTNEED
        if not self.pages:
            # For readers of a log that nobody writes.
            self.memory = memoryview(b"")
            return
        try:
            # Private, because shared anonymous memory gets no huge pages: far fewer page faults on first use.
            mapping = _anonymous(self._bytes)
            self.journal = RingJournal(memoryview(_anonymous(self.layout.journal_bytes)), self.layout)
        except OSError:
            raise ConfigError(f"no memory for ring-size {format_size(byte_count)}; choose a smaller one") from None
        # A kernel without huge pages rejects the hint.
        with contextlib.suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        self.mapping = mapping
        self.memory = memoryview(mapping)

    @property
    def layout(self) -> Layout:
        return Layout(self.pages, self.volatile_pages)

    @classmethod
    def over(cls, layout: Layout, journal: mmap.mmap, slots: mmap.mmap) -> "RingBuffer":
        """A ring in shared memory that is there already."""
        ring = cls(0)
        ring.pages, ring.volatile_pages = layout.ring_pages, layout.volatile_pages
        ring._bytes = layout.ring_pages << PAGE_SHIFT
        ring.share(RingJournal(memoryview(journal), layout), slots)
        return ring

    def share(self, journal: RingJournal, slots: mmap.mmap) -> None:
        """Be in that shared memory from now on. Nothing that the ring holds is needed; nobody else uses it
        meanwhile."""
        self.journal = journal
        self.mapping = slots
        self.memory = memoryview(slots)
        self._release_advice = mmap.MADV_REMOVE

    def populate(self) -> None:
        """Have the kernel allocate all the memory now, so that no write has to wait for it. Best effort."""
        self.allocate(0, self.pages)

    def allocate(self, lsn: int, count: int) -> None:
        """Have the kernel allocate the memory of count slots from lsn, whatever they hold. Best effort."""
        for view in self.spans(lsn, count):
            _libc.madvise(ctypes.addressof(ctypes.c_char.from_buffer(view)), len(view), _MADV_POPULATE_WRITE)

    def release(self, lsn: int, count: int) -> None:
        """Return the memory of count slots from lsn to the kernel. What they hold is lost."""
        start = (lsn % self.pages) << PAGE_SHIFT
        first = min(count << PAGE_SHIFT, self._bytes - start)
        self.mapping.madvise(self._release_advice, start, first)
        if first < count << PAGE_SHIFT:
            self.mapping.madvise(self._release_advice, 0, (count << PAGE_SHIFT) - first)

    def offset(self, lsn: int) -> int:
        """Byte offset of the slot of lsn in `memory`."""
        return (lsn % self.pages) << PAGE_SHIFT

    def page(self, lsn: int) -> memoryview:
        """The slot of lsn."""
        start = (lsn % self.pages) << PAGE_SHIFT
        return self.memory[start : start + PAGE_BYTES]

    def put(self, lsn: int, block: int, data: bytes | bytearray | memoryview) -> None:
        """Copy one page, of that block, into the slot of lsn. It counts when `head` is published."""
        slot = lsn % self.pages
        start = slot << PAGE_SHIFT
        self.memory[start : start + PAGE_BYTES] = data
        self.journal.blocks[slot] = block

    def spans(self, lsn: int, count: int) -> list[memoryview]:
        """The slots of count LSNs from lsn: one view, or two if the ring wraps."""
        start = (lsn % self.pages) << PAGE_SHIFT
        end = start + (count << PAGE_SHIFT)
        if end <= self._bytes:
            return [self.memory[start:end]]
        return [self.memory[start:], self.memory[: end - self._bytes]]

    def pages_of(self, lsn: int, count: int) -> list[memoryview]:
        """One view for each of count slots from lsn."""
        memory, ring = self.memory, self._bytes
        start = (lsn % self.pages) << PAGE_SHIFT
        end = start + (count << PAGE_SHIFT)
        views = [memory[at : at + PAGE_BYTES] for at in range(start, min(end, ring), PAGE_BYTES)]
        if end > ring:
            views += [memory[at : at + PAGE_BYTES] for at in range(0, end - ring, PAGE_BYTES)]
        return views

    def open_segment(self, line: NumberLine) -> PendingSegment:
        """The line's next segment. Lock held; there is room and no open segment."""
        # First the word: a head beyond a slot without its own would give the slot the meaning that it had a lap ago.
        self.journal.note_segment(line.head)
        segment = line.open_next_segment()
        self.journal.state[HEAD] = line.head
        return segment

    def copy_in(self, lsn: int, block: int, data: bytes | bytearray | memoryview) -> None:
        """Copy whole pages, of consecutive blocks, into the slots from lsn. They count when `head` is published."""
        start = (lsn % self.pages) << PAGE_SHIFT
        end = start + len(data)
        if end <= self._bytes:
            self.memory[start:end] = data
        else:
            first = self._bytes - start
            self.memory[start:] = data[:first]
            self.memory[: end - self._bytes] = data[first:]
        self.journal.note_pages(lsn, block, len(data) >> PAGE_SHIFT)

    def copy_out(self, lsn: int, view: memoryview) -> None:
        """Fill view, whole pages, from the slots from lsn."""
        start = (lsn % self.pages) << PAGE_SHIFT
        end = start + len(view)
        if end <= self._bytes:
            view[:] = self.memory[start:end]
        else:
            first = self._bytes - start
            view[:first] = self.memory[start:]
            view[first:] = self.memory[: end - self._bytes]

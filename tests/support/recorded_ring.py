# SPDX-License-Identifier: BSD-3-Clause
"""Records every store into a shared ring in the journal of a simulated run, so that its process can die at any.

A copy of more than a word is two stores: a process may die in the middle of it, and of a word.
"""

import os

from tests.support.simulated_disk import MEMORY, Event, Piece
from wbcache_core.units import PAGE_BYTES


class _RecordedView:
    """A part of the file in place of a memoryview of it."""

    def __init__(self, recorder, view, base):
        self._recorder = recorder
        self._view = view
        self._base = base

    def _place(self, key):
        """(offset in the file, length) in bytes."""
        start, stop, _ = key.indices(len(self._view)) if isinstance(key, slice) else (key, key + 1, 1)
        size = self._view.itemsize
        return self._base + start * size, (stop - start) * size

    def __getitem__(self, key):
        found = self._view[key]
        if isinstance(found, memoryview) and len(found) == PAGE_BYTES and found.itemsize == 1:
            self._recorder.lend(self._place(key)[0], found)
        return found

    def __setitem__(self, key, value):
        self._view[key] = value
        found = self._view[key]
        data = found.tobytes() if isinstance(found, memoryview) else value.to_bytes(8, "little")
        self._recorder.store(self._place(key)[0], data)


class RingRecorder:
    """For one cache: attach() it before it is activated."""

    def __init__(self, journal):
        self._events = journal.events
        self._image = bytearray()
        self._lent = {}
        self.is_over = False
        """What happens from now on is not part of the run."""
        journal.before_event = self.note_lent

    def attach(self, cache):
        memory, make_ready, close = cache._ring_memory, cache._ring_memory.make_ready, cache._ring_memory.close

        def ready_and_recorded(*arguments):
            make_ready(*arguments)
            self._record(cache._ring, memory.path)

        def closed(is_empty):
            if is_empty and memory.path and not self.is_over:
                self._events.append(Event(MEMORY, None, frozenset()))
            close(is_empty)

        memory.make_ready, memory.close = ready_and_recorded, closed

    def _record(self, ring, path):
        assert path, "the ring is not shared"
        with open(path, "rb") as file:
            self._image[:] = file.read()
        self._events.append(Event(MEMORY, Piece(0, 0, bytes(self._image)), frozenset()))
        layout = ring.layout
        journal = ring.journal
        journal.state = _RecordedView(self, journal.state, layout.state_at)
        journal.blocks = _RecordedView(self, journal.blocks, layout.blocks_at)
        journal.ranges = _RecordedView(self, journal.ranges, layout.ranges_at)
        ring.memory = _RecordedView(self, ring.memory, layout.journal_bytes)

    def store(self, offset, data):
        """Some bytes of the file have changed."""
        self.note_lent()
        middle = len(data) // 2 + 3 if len(data) > 8 else len(data)
        for start, end in ((0, middle), (middle, len(data))):
            if start < end:
                self._add(offset + start, data[start:end])

    def _add(self, offset, data):
        self._image[offset : offset + len(data)] = data
        self._events.append(Event(MEMORY, Piece(0, offset, data), frozenset()))

    def lend(self, offset, view):
        """Somebody has a view of a page, and may write to it before the next event."""
        self._lent[offset] = view

    def note_lent(self):
        lent, self._lent = self._lent, {}
        for offset, view in lent.items():
            if self._image[offset : offset + PAGE_BYTES] != view:
                self._add(offset, bytes(view))


def place(path, content):
    """Let the ring that a dead process left be there, or none."""
    if os.path.exists(path):
        os.unlink(path)
    if content:
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)

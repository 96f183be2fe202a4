# SPDX-License-Identifier: BSD-3-Clause
"""Walks along the journal of a run and cuts the power of all disks, or ends its process, at any place, as often as one
likes."""

import contextlib

from tests.support.simulated_disk import MEMORY, SECTOR, put, settle, survivors


class Replay:
    """`durable` are the disks as every cut at this place leaves them at least."""

    def __init__(self, images, events, memory=b""):
        self.durable = [bytearray(image) for image in images]
        self.position = 0
        """The next event: a cut here comes before it."""
        self.syncs = 0
        self.memory = bytearray(memory)
        """Shared memory, as it is when the process dies here."""
        self._events = events
        self._unsynced = [[] for _ in images]

    def advance(self):
        """Let the next event happen."""
        disk, piece, covered = self._events[self.position]
        self.position += 1
        if disk == MEMORY:
            self._store(piece)
            return
        if piece:
            self._unsynced[disk].append(piece)
            return
        if covered:
            self.syncs += 1
            self._unsynced[disk] = settle(self.durable[disk], self._unsynced[disk], covered)

    def _store(self, piece):
        if piece is None:
            self.memory.clear()
            return
        self.memory.extend(bytes(max(piece.offset + len(piece.data) - len(self.memory), 0)))
        put(self.memory, [piece])

    @property
    def is_memory_next(self):
        """Whether the next event touches only memory."""
        return self.position < len(self._events) and self._events[self.position].disk == MEMORY

    def survivors(self, rng, style):
        """For each disk the unsynced pieces that survive a cut."""
        return [survivors(writes, rng, style) for writes in self._unsynced]

    def left_by_process(self, rng):
        """For each disk the unsynced pieces that are there when only the process dies: all, the last one perhaps in
        part."""
        left = []
        for writes in self._unsynced:
            pieces = list(writes)
            if pieces and rng.random() < 0.5:
                last = pieces.pop()
                arrived = rng.randint(0, len(last.data) // SECTOR)
                pieces += [last.cut(0, arrived)] if arrived else []
            left.append(pieces)
        return left

    @contextlib.contextmanager
    def after_cut(self, survivors):
        """The disks after the cut, as bytearrays, to be read and not written, for the length of the context."""
        before = []
        for content, pieces in zip(self.durable, survivors, strict=True):
            for piece in pieces:
                before.append((content, piece.offset, content[piece.offset : piece.offset + len(piece.data)]))
            put(content, pieces)
        try:
            yield self.durable
        finally:
            for content, offset, data in reversed(before):
                content[offset : offset + len(data)] = data

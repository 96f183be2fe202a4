# SPDX-License-Identifier: BSD-3-Clause
"""Walks along the journal of a run and cuts the power of all disks at any place, as often as one likes."""

import contextlib

from tests.support.simulated_disk import put, settle, survivors


class Replay:
    """`durable` are the disks as every cut at this place leaves them at least."""

    def __init__(self, images, events):
        self.durable = [bytearray(image) for image in images]
        self.position = 0
        """The next event: a cut here comes before it."""
        self.syncs = 0
        self._events = events
        self._unsynced = [[] for _ in images]

    def advance(self):
        """Let the next event happen."""
        disk, piece, covered = self._events[self.position]
        self.position += 1
        if piece:
            self._unsynced[disk].append(piece)
            return
        if covered:
            self.syncs += 1
            self._unsynced[disk] = settle(self.durable[disk], self._unsynced[disk], covered)

    def survivors(self, rng, style):
        """For each disk the unsynced pieces that survive a cut."""
        return [survivors(writes, rng, style) for writes in self._unsynced]

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

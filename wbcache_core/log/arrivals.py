# SPDX-License-Identifier: BSD-3-Clause
"""Segments that a standby was sent, each by a thread of its own, until it is their turn to be written."""

import threading
from typing import Generic, TypeVar

from wbcache_core.device.device import aligned_buffer
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.units import PAGE_SHIFT

S = TypeVar("S")


class Arrived(Generic[S]):
    """A segment that is whole. StandbyLog's lock guards `is_taken`."""

    __slots__ = ("buffer", "descriptor", "image", "is_taken", "offset", "sender")

    def __init__(self, sender: S, descriptor: Descriptor, buffer: memoryview, image: memoryview, offset: int) -> None:
        """`image` is its copy, in the buffer, which the device can be given."""
        self.sender, self.descriptor, self.offset = sender, descriptor, offset
        self.buffer, self.image = buffer, image
        self.is_taken = False


class Arrivals(Generic[S]):
    """`lock` is StandbyLog's. put() needs no lock: it only uses single operations of a dict and a list."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._by_lsn: dict[int, Arrived[S]] = {}
        """By first LSN. Put there without the lock, and taken away with it, so that an image stays as it is while
        somebody has the lock."""
        self._buffers: list[memoryview] = []
        """Not in use, each with room for a segment: new memory costs as much as the writing."""
        self._turns: dict[int, threading.Condition] = {}
        """Of those that wait, by first LSN; `lock` guards it. One condition for all would wake every thread for every
        segment."""

    def put(self, sender: S, descriptor: Descriptor, data: memoryview, offset: int) -> Arrived[S]:
        """Copy a segment. From now on others may take it along; remove() has to follow."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = aligned_buffer(MAX_SEGMENT_PAGES << PAGE_SHIFT)
        image = buffer[: len(data)]
        image[:] = data
        arrived = Arrived(sender, descriptor, buffer, image, offset)
        self._by_lsn[descriptor.first_lsn] = arrived
        return arrived

    def remove(self, arrived: Arrived[S]) -> None:
        """Its thread has done with it. Lock held."""
        if self._by_lsn.get(arrived.descriptor.first_lsn) is arrived:
            del self._by_lsn[arrived.descriptor.first_lsn]
        self._buffers.append(arrived.buffer)

    def run_from(self, first: Arrived[S]) -> list[Arrived[S]]:
        """It, and what has arrived behind it, of the same sender and generation, that a single write can put there.
        Lock held."""
        run = [first]
        while following := self._by_lsn.get(run[-1].descriptor.end_lsn):
            last = run[-1]
            if (
                following.sender is not last.sender
                or following.descriptor.generation != last.descriptor.generation
                or following.offset != last.offset + len(last.image)
            ):
                break
            run.append(following)
        return run

    def wait(self, lsn: int, seconds: float) -> None:
        """Wait for the turn of the segment that begins there, or for a reason why it has none. Lock held; released
        while waiting."""
        self._turns.setdefault(lsn, threading.Condition(self._lock)).wait(seconds)

    def wake(self, lsn: int) -> None:
        """The log has come to that LSN. Lock held."""
        if turn := self._turns.pop(lsn, None):
            turn.notify_all()

    def wake_all(self) -> None:
        """Let all who wait see why nothing of theirs is taken. Lock held."""
        for turn in self._turns.values():
            turn.notify_all()
        self._turns.clear()

# SPDX-License-Identifier: BSD-3-Clause
"""The past moments that clients have open, and how they open one, or two to compare."""

import threading
from collections.abc import Callable
from typing import Protocol

from wbcache_core import clock
from wbcache_core.flow.retention import Pins
from wbcache_core.format.superblock import Tag
from wbcache_core.memory import moments
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.volume.comparison import Comparison
from wbcache_core.volume.snapshot import Image, Snapshot, Sources


class RetainedLine(Protocol):
    """A NumberLine, or that of a standby."""

    @property
    def lock(self) -> threading.Lock: ...
    @property
    def destaged(self) -> int: ...


class Snapshots:
    """Opens generations. `_images`, the open ones by end LSN, is guarded by the volume lock."""

    def __init__(
        self, line: RetainedLine, covered: CoveredLog, pins: Pins, sources: Callable[[Generation], Sources]
    ) -> None:  # fmt: skip
        """sources() is called with the lock held, for a moment that is about to be opened."""
        self._line = line
        self._sources_of = sources
        self._covered = covered
        self._pins = pins
        self._images: dict[int, Image] = {}

    def open(self, text: str) -> Snapshot:
        """Open the generation that a WHEN means now. The caller closes it. No lock held.

        Takes time linear in the records from `destaged` to that generation, or none if it is already open. Raises
        MalformedMomentError, OutsideWindowError, TagError, SnapshotEndedError.
        """
        when = moments.parse_when(text)
        with self._line.lock:
            generation, final = self._resolve(when)
            image = self._use(generation)
        try:
            return Snapshot(image, self.release, final)
        except BaseException:
            self.release(image)
            raise

    def compare(self, start: str, end: str) -> Comparison:
        """Open two moments, of which the second may be the earlier one. The caller closes it. No lock held.

        Both are pinned under one hold of the lock, so that the map of the later one has all that was written between
        them. Raises the same as open(), and takes as long as that for the later one, or both.
        """
        first, second = moments.parse_when(start), moments.parse_when(end)
        images: list[Image] = []
        try:
            with self._line.lock:
                (before, is_start_final), (after, is_end_final) = self._resolve(first), self._resolve(second)
                images.append(self._use(before))
                images.append(self._use(after))
            snapshot = Snapshot(images[1], self.release, is_start_final and is_end_final)
            return Comparison(images[0], snapshot, self.release)
        except BaseException:
            for image in images:
                self.release(image)
            raise

    def open_export(self, name: str) -> Snapshot | Comparison:
        """What the export @name shows: a moment, or what changed between two. The caller closes it. No lock held.

        nbdkit cannot recognise a client that reconnects: by this name it has to get the same moments, or none. Raises
        the same as open(), PassingNameError, and MalformedMomentError if it would begin after its end.
        """
        sides = moments.split_range(name, self._tags())
        past = self.compare(*sides) if sides else self.open(name)
        try:
            if isinstance(past, Comparison):
                moments.check_order(past.start, past.end)
            moments.refuse_passing(name, past.description, past.export, past.is_final)
            return past
        except BaseException:
            past.close()
            raise

    def resolve_export(self, name: str) -> tuple[Generation, ...]:
        """The generation that open_export() would open now, or the two of them. Raises the same. No lock held."""
        return moments.resolve_export(name, self._tags(), self._look_up)

    def _look_up(self, text: str) -> Generation:
        when = moments.parse_when(text)
        with self._line.lock:
            return self._resolve(when)[0]

    def _tags(self) -> tuple[Tag, ...]:
        with self._line.lock:
            return self._pins.tags

    def _resolve(self, when: moments.When) -> tuple[Generation, bool]:
        """What it means now, and whether it will always mean that. Lock held."""
        generation = moments.resolve(when, self._covered.generations, self._pins.tags, clock.read())
        return generation, moments.is_final(when, generation, self._covered.generations.newest)

    def _use(self, generation: Generation) -> Image:
        """Pin it for one more user. Lock held."""
        image = self._images.get(generation.end_lsn)
        if image is None:
            records = self._covered.records.between(self._line.destaged, generation.end_lsn)
            # There may be no memory for these: whatever is pinned has to be released.
            sources = self._sources_of(generation)
            image = Image(self._pins.add(generation), records, sources)
            self._images[generation.end_lsn] = image
        image.users += 1
        return image

    def opened(self) -> list[tuple[Generation, int]]:
        """The generations that are open, and how often each is open. Lock held."""
        return [(image.pin.generation, image.users) for image in self._images.values()]

    def release(self, image: Image) -> None:
        """One user less. No lock held."""
        with self._line.lock:
            image.users -= 1
            if image.users == 0:
                del self._images[image.pin.generation.end_lsn]
                self._pins.remove(image.pin)

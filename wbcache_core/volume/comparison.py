# SPDX-License-Identifier: BSD-3-Clause
"""Two past moments: the volume as of the second one, and which blocks are different from the first.

    a block has changed  <=>  the map of the later moment has an LSN for it from the end of the earlier one on

The map of a moment has the newest LSN, up to that moment, of every block written since `destaged`. As long as the
earlier moment can be opened, `destaged` is not beyond it, so when both are opened under one hold of the volume lock,
nothing is missing. A range entry stands at the LSN before it, in the same segment, so it is not below the end of the
generation before. What was rewritten with the same content has changed; nothing that has changed is left out.
"""

from collections.abc import Callable, Iterator

from wbcache_core.device.device import Extent
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.map_entry import entry_lsn
from wbcache_core.memory.moments import describe
from wbcache_core.units import GIB, PAGE_SHIFT, pages_of
from wbcache_core.volume.changed_extents import Change, changes
from wbcache_core.volume.extents import add_extent
from wbcache_core.volume.snapshot import Image, Snapshot

_LONGEST = GIB
"""Most bytes that one call of extents() describes."""
_MOST = 4096
"""Most looks at the map in one call of extents()."""
_CHANGED, _AS_BEFORE = (False, False), (True, False)
"""Not a hole and not zero; a hole of which nothing is said."""


class Comparison:
    """The volume as of `end`, read-only, in which everything that is as it was at `start` is a hole.

    Both moments are pinned until it is closed. If the earlier one has to give way all the same, this one goes on,
    because its map is complete; when `end` has to, every method raises SnapshotEndedError.
    """

    def __init__(self, opened: Image, snapshot: Snapshot, release: Callable[[Image], None]) -> None:
        """`opened` is the moment to start from, `snapshot` the other. close() gives `opened` to `release`."""
        self._opened = opened
        self._snapshot = snapshot
        self._release = release
        self._is_open = True
        self.start: Generation = opened.pin.generation
        self.end: Generation = snapshot.generation
        is_forwards = self.start.end_lsn <= self.end.end_lsn
        self._changed = snapshot.locations if is_forwards else opened.locations()
        self._since = min(self.start.end_lsn, self.end.end_lsn)
        self._blocks = pages_of(snapshot.size)
        self.size = snapshot.size
        self.is_final = snapshot.is_final
        """Whether the names that it was opened with will keep meaning these generations."""
        self.read_into = snapshot.read_into
        self.prefetch = snapshot.prefetch

    @property
    def export(self) -> str:
        """What a client can open instead of a name that passes, without the @."""
        return f"{self.start.number}..{self.end.number}"

    @property
    def description(self) -> str:
        """For people."""
        return f"{describe(self.end)}; what has not changed since {describe(self.start)} is a hole"

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from offset, or only the first with only_one; they may stop short of count.

        What has not changed is a hole that is not said to be zero: whoever copies everything has to read it, and
        whoever has a copy of `start` can leave it out. Everything else is data, zeros too. Takes no lock.
        """
        self._snapshot.check_range(count, offset)
        end = offset + min(count, _LONGEST)
        found: list[Extent] = []
        position = offset
        for _ in range(_MOST):
            if position >= end or (only_one and len(found) > 1):
                break
            stop, entry = self._changed.run(position >> PAGE_SHIFT, self._blocks, self._since)
            stop = min(stop << PAGE_SHIFT, end)
            add_extent(found, position, stop, _AS_BEFORE if entry_lsn(entry) < self._since else _CHANGED)
            position = stop
        self._snapshot.check_not_ended()
        return found[:1] if only_one else found

    def changes(self, offset: int = 0) -> Iterator[Change]:
        """What has changed, from the block at a byte offset on, in order, each with what it is at `end`.

        Backwards, the origin may be asked about that. Takes no lock. Raises SnapshotEndedError, DeviceError.
        """
        origin = None if self._changed is self._snapshot.locations else self._snapshot.origin
        blocks = range(offset >> PAGE_SHIFT, self._blocks)
        for change in changes(self._changed, self._snapshot.locations, self._since, blocks, origin):
            self._snapshot.check_not_ended()
            yield change
        self._snapshot.check_not_ended()

    def close(self) -> None:
        """Release both moments. Idempotent. No lock held, and no request in progress."""
        if self._is_open:
            self._is_open = False
            self._release(self._opened)
            self._snapshot.close()

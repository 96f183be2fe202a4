# SPDX-License-Identifier: BSD-3-Clause
"""The volume as it stood at a generation: a private map over the same ring, log and origin.

    origin + log[destaged, end of the generation)  =  the volume at that generation

The map is built from the records of that part of the log, and shared by all who
have the generation open. The origin does not move beyond the generation as long
as it is open (flow/retention.py), so what the map does not have, or has below
`oldest`, is on the origin as it was then.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from wbcache_core.device.device import Device, Extent
from wbcache_core.errors import DeviceError, OutOfRangeError, RequestError, SnapshotEndedError
from wbcache_core.flow.retention import Pin
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe
from wbcache_core.memory.record_index import Records
from wbcache_core.volume.extents import ExtentMapper
from wbcache_core.volume.reader import ReadLine, VolumeReader


class Sources(NamedTuple):
    """What a moment is read from: `reader` has another map for each."""

    line: ReadLine
    reader: VolumeReader
    origin: Device


class Image:
    """A generation that is open: it is pinned, and has a map as soon as somebody needs that.

    `users` is guarded by the volume lock, the map and the records that it is made of by `_building`.
    """

    def __init__(self, pin: Pin, records: Records, sources: Sources) -> None:
        self.pin = pin
        self.sources = sources
        self.users = 0
        self._building = threading.Lock()
        self._records: Records | None = records
        self._locations: LocationMap | None = None

    def locations(self) -> LocationMap:
        """Its map, which does not change any more. Whoever asks first builds it; others wait. No lock held.

        Takes time linear in the number of records. Raises MemoryError.
        """
        with self._building:
            if self._locations is None:
                assert self._records
                built = LocationMap()
                self._records.replay(built)
                self._locations, self._records = built, None
            return self._locations


class Snapshot:
    """A read-only volume. Offsets and lengths are bytes. Raises only RequestError and DeviceError."""

    def __init__(self, image: Image, release: Callable[[Image], None], is_final: bool) -> None:
        """close() gives the image to `release`."""
        sources = image.sources
        self._image = image
        self._release = release
        self._pin = image.pin
        self.locations = image.locations()
        self.origin = sources.origin
        self._reader = sources.reader.through(self.locations)
        self._extents = ExtentMapper(sources.line, self.locations, sources.origin)
        self._is_open = True
        self.size = sources.origin.size
        self.generation: Generation = image.pin.generation
        self.is_final = is_final
        """Whether the WHEN that it was opened with will keep meaning this generation."""

    @property
    def export(self) -> str:
        """What a client can open instead of a name that passes, without the @."""
        return str(self.generation.number)

    @property
    def description(self) -> str:
        """For people."""
        return describe(self.generation)

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Fill buffer from offset. Raises SnapshotEndedError as soon as the origin may have moved on."""
        self.check_range(len(buffer), offset)
        try:
            self._reader.read_into(buffer, offset)
        except (RequestError, DeviceError):
            self.check_not_ended()
            raise
        # It is marked before the origin is touched: if it is not marked now, what was read is good.
        self.check_not_ended()

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from offset, or only the first with only_one; they may stop short of count."""
        self.check_range(count, offset)
        found = self._extents.extents(count, offset, only_one)
        self.check_not_ended()
        return found

    def prefetch(self, count: int, offset: int) -> None:
        """Have the origin read ahead."""
        self.check_range(count, offset)
        self.origin.prefetch(offset, count)

    def close(self) -> None:
        """Release the generation. Idempotent. No lock held, and no request in progress."""
        if self._is_open:
            self._is_open = False
            self._release(self._image)

    def check_not_ended(self) -> None:
        """Raises SnapshotEndedError if what was read, or found, may not be of this moment."""
        if self._pin.ended:
            raise SnapshotEndedError(
                f"the snapshot of {describe(self.generation)} has ended: the origin had to move on, because writers "
                "needed log space or the server is stopping; a larger log or history-full=hold keeps snapshots longer"
            )

    def check_range(self, count: int, offset: int) -> None:
        """Raises OutOfRangeError."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise OutOfRangeError(
                f"request of {count} bytes at {offset} reaches beyond the end of the volume ({self.size} bytes)"
            )

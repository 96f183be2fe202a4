# SPDX-License-Identifier: BSD-3-Clause
"""The volume as it stood at a generation: a private map over the same ring, log and origin.

    origin + log[destaged, end of the generation)  =  the volume at that generation

The map is built from the records of that part of the log, and shared by all who
have the generation open. The origin does not move beyond the generation as long
as it is open (flow/retention.py), so what the map does not have, or has below
`oldest`, is on the origin as it was then.
"""

import threading

from wbcache_core import clock
from wbcache_core.device.device import Device, Extent
from wbcache_core.errors import DeviceError, OutOfRangeError, RequestError, SnapshotEndedError
from wbcache_core.flow.retention import Pin, Pins
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import describe, is_final, parse_when, resolve
from wbcache_core.memory.record_index import CoveredLog, Records
from wbcache_core.volume.extents import ExtentMapper
from wbcache_core.volume.reader import VolumeReader


class _Image:
    """A generation that is open. `users` is guarded by the volume lock; the rest does not change once `ready` is set.

    Whoever creates it builds the map; the others wait for `ready`.
    """

    def __init__(self, pin: Pin, records: Records) -> None:
        self.pin = pin
        self.records: Records | None = records
        self.locations = LocationMap()
        self.ready = threading.Event()
        self.is_built = False
        self.users = 0


class Snapshot:
    """A read-only volume. Offsets and lengths are bytes. Raises only RequestError and DeviceError."""

    def __init__(self, owner: "Snapshots", image: _Image, is_final: bool) -> None:
        self._owner = owner
        self._image = image
        self._pin = image.pin
        self._reader = owner.reader.through(image.locations)
        self._extents = ExtentMapper(owner.line, image.locations, owner.origin)
        self._is_open = True
        self.size = owner.origin.size
        self.generation: Generation = image.pin.generation
        self.is_final = is_final
        """Whether the WHEN that it was opened with will keep meaning this generation."""

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Fill buffer from offset. Raises SnapshotEndedError as soon as the origin may have moved on."""
        self._check_range(len(buffer), offset)
        try:
            self._reader.read_into(buffer, offset)
        except (RequestError, DeviceError):
            self._check_not_ended()
            raise
        # It is marked before the origin is touched: if it is not marked now, what was read is good.
        self._check_not_ended()

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Contiguous extents from offset, or only the first with only_one; they may stop short of count."""
        self._check_range(count, offset)
        found = self._extents.extents(count, offset, only_one)
        self._check_not_ended()
        return found

    def prefetch(self, count: int, offset: int) -> None:
        """Have the origin read ahead."""
        self._check_range(count, offset)
        self._owner.origin.prefetch(offset, count)

    def close(self) -> None:
        """Release the generation. Idempotent. No lock held, and no request in progress."""
        if self._is_open:
            self._is_open = False
            self._owner.release(self._image)

    def _check_not_ended(self) -> None:
        if self._pin.ended:
            raise SnapshotEndedError(
                f"the snapshot of {describe(self.generation)} has ended: the origin had to move on, because writers "
                "needed log space or the server is stopping; a larger log or history-full=hold keeps snapshots longer"
            )

    def _check_range(self, count: int, offset: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise OutOfRangeError(
                f"request of {count} bytes at {offset} reaches beyond the end of the volume ({self.size} bytes)"
            )


class Snapshots:
    """Opens generations. `_images`, the open ones by end LSN, is guarded by the volume lock."""

    def __init__(
        self, line: NumberLine, covered: CoveredLog, pins: Pins, reader: VolumeReader, origin: Device
    ) -> None:
        self.line = line
        self.reader = reader
        self.origin = origin
        self._covered = covered
        self._pins = pins
        self._images: dict[int, _Image] = {}

    def open(self, text: str) -> Snapshot:
        """Open the generation that a WHEN means now. The caller closes it. No lock held.

        Takes time linear in the records from `destaged` to that generation, or none if it is already open. Raises
        MalformedMomentError, OutsideWindowError, TagError, SnapshotEndedError.
        """
        when = parse_when(text)
        with self.line.lock:
            generation = resolve(when, self._covered.generations, self._pins.tags, clock.read())
            final = is_final(when, generation, self._covered.generations)
            image = self._images.get(generation.end_lsn)
            is_mine = image is None
            if image is None:
                records = self._covered.records.between(self.line.destaged, generation.end_lsn)
                image = self._images[generation.end_lsn] = _Image(self._pins.add(generation), records)
            image.users += 1
        try:
            if is_mine:
                _build(image)
            image.ready.wait()
            if not image.is_built:
                raise MemoryError(f"not enough memory for the map of {describe(generation)}")
        except BaseException:
            self.release(image)
            raise
        return Snapshot(self, image, final)

    def resolve(self, text: str) -> Generation:
        """Like open(), without opening it. No lock held."""
        when = parse_when(text)
        with self.line.lock:
            return resolve(when, self._covered.generations, self._pins.tags, clock.read())

    def opened(self) -> list[tuple[Generation, int]]:
        """The generations that are open, and how often each is open. Lock held."""
        return [(image.pin.generation, image.users) for image in self._images.values()]

    def release(self, image: _Image) -> None:
        """One user less. No lock held."""
        with self.line.lock:
            image.users -= 1
            if image.users == 0:
                del self._images[image.pin.generation.end_lsn]
                self._pins.remove(image.pin)


def _build(image: _Image) -> None:
    try:
        assert image.records
        image.records.replay(image.locations)
        image.is_built = True
    finally:
        image.records = None
        image.ready.set()

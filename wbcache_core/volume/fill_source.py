# SPDX-License-Identifier: BSD-3-Clause
"""The volume as origins of peers are filled from it."""

from wbcache_core.device.device import Device, Extent
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.volume.extents import ExtentMapper
from wbcache_core.volume.reader import VolumeReader


class FillSource:
    """For any thread. See shipping.filling.VolumeSource."""

    def __init__(self, line: NumberLine, locations: LocationMap, reader: VolumeReader, origin: Device) -> None:
        self.size = origin.size
        self._reader = reader
        self._extents = ExtentMapper(line, locations, origin)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from that byte offset. Raises DeviceError, DamagedPageError."""
        self._reader.read_into(buffer, offset)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """See ExtentMapper. Raises DeviceError."""
        return self._extents.extents(count, offset, only_one)

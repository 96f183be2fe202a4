# SPDX-License-Identifier: BSD-3-Clause
"""Where the map of changed regions is in a log: in two areas that are written in turn, so that the newest superblock
never speaks of one that is being written."""

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import FormatError
from wbcache_core.format.changed_regions import AREA_BYTES, AREA_OFFSETS, ChangedRegions, checksum, decode, encode
from wbcache_core.log.log_sync import LogSync


class RegionAreas:
    """SuperblockStore's lock guards the fields, and is held by callers of every method."""

    def __init__(self, device: Device, log_sync: LogSync) -> None:
        self._device = device
        self._log_sync = log_sync
        self._buffer = aligned_buffer(AREA_BYTES)
        self._known: ChangedRegions | None = None
        self._known_sum = 0
        """The last one that was read or written, and its checksum."""

    def read(self, wanted_sum: int, uuid: bytes) -> ChangedRegions | None:
        """The map of that volume with that checksum, None if there is none. Raises DeviceError."""
        if wanted_sum and self._known_sum == wanted_sum:
            return self._known
        index = self._find(wanted_sum)
        if index is None:
            return None
        try:
            found = decode(self._buffer)
        except FormatError:
            return None
        if found.uuid != uuid:
            return None
        self._known, self._known_sum = found, wanted_sum
        return found

    def _find(self, wanted_sum: int) -> int | None:
        """Which area has the map with that checksum; it is in the buffer then. Raises DeviceError."""
        if wanted_sum:
            for index, offset in enumerate(AREA_OFFSETS):
                self._device.read_uncached_into(self._buffer, offset)
                if checksum(self._buffer) == wanted_sum:
                    return index
        return None

    def write(self, regions: ChangedRegions, kept_sum: int) -> int:
        """Make a map durable in the area that does not have the one with the checksum `kept_sum`; returns its
        checksum. Raises DeviceError, SyncFailedError."""
        image = encode(regions)
        new_sum = checksum(image)
        if new_sum == kept_sum:
            return new_sum
        area = 1 if self._find(kept_sum) == 0 else 0
        self._buffer[:] = image
        self._device.write([self._buffer], AREA_OFFSETS[area])
        self._log_sync.sync()
        self._known, self._known_sum = regions, new_sum
        return new_sum

# SPDX-License-Identifier: BSD-3-Clause
"""Where the map of changed regions is in a log: in two areas that are written in turn, so that the newest superblock
never speaks of one that is being written."""

import contextlib

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DeviceError, FormatError
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
        self._area = 0
        """The last one that was read or written, None if it was not found; its checksum, and where it is."""

    def read(self, wanted_sum: int, uuid: bytes) -> ChangedRegions | None:
        """The map of that volume with that checksum, None if there is none, or it cannot be read."""
        if wanted_sum != self._known_sum:
            self._known, self._known_sum = self._find(wanted_sum, uuid), wanted_sum
        return self._known

    def _find(self, wanted_sum: int, uuid: bytes) -> ChangedRegions | None:
        """The same, from the device. `_area` is the one that has it, if one does."""
        if wanted_sum:
            for index, offset in enumerate(AREA_OFFSETS):
                # One bad sector there must not hold up anything: a map that is not found is as good as none.
                with contextlib.suppress(DeviceError, FormatError):
                    self._device.read_uncached_into(self._buffer, offset)
                    if checksum(self._buffer) == wanted_sum:
                        self._area = index
                        found = decode(self._buffer)
                        return found if found.uuid == uuid else None
        return None

    def write(self, regions: ChangedRegions, kept_sum: int) -> int:
        """Make a map durable in the area that does not have the one with the checksum `kept_sum`; returns its
        checksum. Raises DeviceError, SyncFailedError."""
        image = encode(regions)
        new_sum = checksum(image)
        if new_sum == kept_sum:
            return new_sum
        self.read(kept_sum, regions.uuid)
        area = 1 - self._area
        self._buffer[:] = image
        self._device.write([self._buffer], AREA_OFFSETS[area])
        self._log_sync.sync()
        self._known, self._known_sum, self._area = regions, new_sum, area
        return new_sum

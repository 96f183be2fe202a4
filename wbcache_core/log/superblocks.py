# SPDX-License-Identifier: BSD-3-Clause
"""The two superblocks of a log: read at start, then written in turn.

Log space counts as free only below what both superblocks call oldest, so
either of them alone leads to a complete recovery.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import FormatError, LogVersionError
from wbcache_core.format.changed_regions import ChangedRegions
from wbcache_core.format.superblock import MAGIC, SLOT_OFFSETS, NewerVersionError, Superblock, decode, encode
from wbcache_core.log.log_sync import LogSync
from wbcache_core.log.region_areas import RegionAreas
from wbcache_core.units import PAGE_BYTES


def _slot(sequence: int) -> int:
    return sequence % len(SLOT_OFFSETS)


def _slot_offset(sequence: int) -> int:
    return SLOT_OFFSETS[_slot(sequence)]


def read_slots(device: Device) -> list[Superblock | None]:
    """Both superblocks, None for one that is not valid.

    Raises DeviceError, and LogVersionError if either was written by a newer wbcache.
    """
    found: list[Superblock | None] = []
    for offset in SLOT_OFFSETS:
        if offset + PAGE_BYTES > device.size:
            found.append(None)
            continue
        page = aligned_buffer(PAGE_BYTES)
        device.read_uncached_into(page, offset)
        try:
            found.append(decode(page))
        except NewerVersionError as error:
            raise LogVersionError(f"log '{device.name}': {error}; use the wbcache that wrote it") from None
        except FormatError:
            found.append(None)
    return found


def newest(slots: list[Superblock | None]) -> Superblock | None:
    """The valid superblock with the highest sequence, if any."""
    return max((slot for slot in slots if slot), key=lambda slot: slot.sequence, default=None)


class SuperblockStore:
    """Writes superblocks. `_lock` guards all fields and is held across the write and sync.

    The properties read single fields without it, for the thread that has just written or for callers for whom an older
    superblock will do.
    """

    def __init__(self, device: Device, slots: list[Superblock | None] | None, blank: Superblock | None = None) -> None:
        """`slots` as returned by read_slots(), at least one of them valid. None for a log that format() is going to
        format; then `blank` is what is known of its superblock."""
        self._lock = threading.Lock()
        self._device = device
        self.log_sync = LogSync(device)
        """For everybody who writes this log."""
        self._slots: list[Superblock | None] = list(slots or [])
        current = newest(self._slots) or blank
        assert current
        self.note_written: Callable[[], None] = lambda: None
        """Called after each write, without the lock. Written before any thread runs."""
        self._current = current
        self._page = aligned_buffer(PAGE_BYTES)
        self._areas = RegionAreas(device, self.log_sync)

    @property
    def is_formatted(self) -> bool:
        """Whether the log has superblocks, so that write() may be called."""
        return bool(self._slots)

    def format(self, first: Superblock) -> None:
        """See format_log(). After a DeviceError the log counts as not formatted."""
        with self._lock:
            slots = format_log(self._device, first)
            self._slots, self._current = slots, newest(slots) or first

    @property
    def current(self) -> Superblock:
        """The newest durable superblock."""
        return self._current

    @property
    def slots(self) -> list[Superblock | None]:
        """Both superblocks as they are on the device."""
        return list(self._slots)

    @property
    def reclaimed_place(self) -> int:
        """Log space below this position may be overwritten."""
        return min(slot.oldest_place for slot in self._slots if slot)

    def regions(self) -> ChangedRegions | None:
        """What was written since some LSN, as the newest superblock has it; None if that is not known."""
        with self._lock:
            return self._areas.read(self._current.regions_sum, self._current.uuid)

    def write(self, cuts: bool = False, regions: ChangedRegions | None = None, **changes: Any) -> None:
        """Make the current superblock with changes durable in the other slot. `committed` does not fall, unless this
        `cuts` the log off. The map of changed regions stays as it is if none is given, or is forgotten if it does not
        reach up to `destaged` any more.

        If it raises DeviceError, the current one still counts, and the next write goes to the same slot. The old
        superblock, the new one, or a torn one is there; whatever they say is true. SyncFailedError is final.
        """
        with self._lock:
            current = self._current
            changes |= self._regions_changes(current, regions, changes)
            successor = current.with_changes(sequence=current.sequence + 1, written_ns=time.time_ns(), **changes)
            if not cuts:
                # Callers read the cursor before they get the lock: another may have recorded a later one.
                successor = successor.with_changes(committed=max(successor.committed, current.committed))
            self._page[:] = encode(successor)
            self._device.write([self._page], _slot_offset(successor.sequence))
            self.log_sync.sync()
            self._slots[_slot(successor.sequence)] = self._current = successor
        self.note_written()

    def _regions_changes(
        self, current: Superblock, regions: ChangedRegions | None, changes: dict[str, Any]
    ) -> dict[str, int]:  # fmt: skip
        """What the next superblock says of the map of changed regions. `_lock` held. Raises DeviceError."""
        if regions:
            return {"regions_sum": self._areas.write(regions, current.regions_sum)}
        if not current.regions_sum or "destaged" not in changes:
            return {}
        known = self._areas.read(current.regions_sum, current.uuid)
        is_covered = known and known.since <= changes["destaged"] <= known.until
        return {} if is_covered else {"regions_sum": 0}


def format_log(device: Device, first: Superblock) -> list[Superblock | None]:
    """Write both superblocks of a new log; returns the slots. Raises DeviceError.

    The second is written after the first is durable: a crash in between leaves one valid. Before them a mark that fits
    a sector is written, which identifies a log that got no further (see pairing/).
    """
    mark = aligned_buffer(PAGE_BYTES)
    mark[: len(MAGIC)] = MAGIC
    device.write([mark], _slot_offset(first.sequence))
    device.sync()
    slots: list[Superblock | None] = [None, None]
    for sequence in (first.sequence, first.sequence + 1):
        superblock = first.with_changes(sequence=sequence, written_ns=time.time_ns())
        page = aligned_buffer(PAGE_BYTES)
        page[:] = encode(superblock)
        device.write([page], _slot_offset(sequence))
        device.sync()
        slots[_slot(sequence)] = superblock
    return slots

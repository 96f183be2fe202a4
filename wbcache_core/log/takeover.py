# SPDX-License-Identifier: BSD-3-Clause
"""The step between reading a log that exists and writing it: what was found becomes durable, and final.

For a server's first client, and for `wbcache rewind`.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DeviceError, FormatError
from wbcache_core.format.segment import Descriptor, decode
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.geometry import next_places, offset_of
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.units import PAGE_BYTES

_BURIED_AT_ONCE = 16
"""Descriptors of a chain that are buried between two syncs. A power cut among them may leave any of them."""


class FoundData:
    """What recovery found, which a killed server may have left only in the page cache. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards the fields, held across the sync. Nothing is taken while it is held."""
        self._is_durable = False
        self._failure = ""

    def make_durable(self, log: Device) -> None:
        """Sync it, once. Raises DeviceError, and from then on always.

        The kernel reports only once what it could not write: a second sync that succeeds proves nothing.
        """
        with self._lock:
            if not self._is_durable and not self._failure:
                self._failure = "a sync did not come to its end"
                try:
                    log.sync()
                    self._is_durable, self._failure = True, ""
                except DeviceError as error:
                    self._failure = str(error)
            if self._failure:
                raise DeviceError(
                    f"{self._failure}; what a server left in log '{log.name}' when it was killed may not be durable: "
                    "nothing is written; start the server again when the log device is sound"
                )


def bury(device: Device, data_pages: int, places: Iterable[int]) -> None:
    """Overwrite the descriptors at these positions, so that nothing takes them for some any more; with ones, because
    zeros could be exactly what a torn descriptor lacks. Durable only after a sync. Raises DeviceError."""
    page = aligned_buffer(PAGE_BYTES)
    page[:] = b"\xff" * PAGE_BYTES
    for place in places:
        device.write([page], offset_of(place, data_pages))


def bury_discarded(device: Device, data_pages: int, place: int, limit: int) -> None:
    """Make sure that nothing recovery left out at the end of the log can ever be mistaken for the next segment.

    A torn segment there has the LSN and the predecessor that the next one is going to have. It could be found first if
    the next one goes to the following lap, or be completed by a later write that is torn as well. So the page of its
    descriptor is overwritten at both positions that are searched, before anything is committed. Positions from `limit`
    on are in use. Raises DeviceError.
    """
    bury(device, data_pages, (candidate for candidate in next_places(place, data_pages) if candidate < limit))
    device.sync()


def bury_chain(device: Device, superblock: Superblock) -> None:
    """Bury every segment that continues the log from `destaged` on, of whatever epoch. The log begins there, and what
    an earlier one has left would follow again when the segments before it are written again.

    From the end on, so that a call that is repeated after a failure still finds the way to all that is left. Raises
    DeviceError.
    """
    places = list(_places_of_chain(device, superblock))
    while places:
        bury(device, superblock.data_pages, reversed(places[-_BURIED_AT_ONCE:]))
        device.sync()
        del places[-_BURIED_AT_ONCE:]


def _places_of_chain(device: Device, superblock: Superblock) -> Iterator[int]:
    lsn, place, previous = superblock.destaged, superblock.destaged_place, superblock.destaged_previous
    limit = place + superblock.data_pages
    while found := _next_in_chain(device, superblock, lsn, place, previous, limit):
        descriptor, place = found
        yield place
        lsn, place, previous = descriptor.end_lsn, place + descriptor.log_pages, descriptor.checksum


def _next_in_chain(
    device: Device, superblock: Superblock, lsn: int, place: int, previous: int, limit: int
) -> tuple[Descriptor, int] | None:
    page = aligned_buffer(PAGE_BYTES)
    for candidate in next_places(place, superblock.data_pages):
        if candidate >= limit:
            continue
        device.read_uncached_into(page, offset_of(candidate, superblock.data_pages))
        try:
            descriptor = decode(page)
        except FormatError:
            continue
        if (descriptor.uuid, descriptor.first_lsn, descriptor.previous) == (superblock.uuid, lsn, previous):
            return descriptor, candidate
    return None


def take_over(log: Device, store: SuperblockStore, found: FoundData, place: int, **changes: Any) -> None:
    """Let both superblocks have these changes, and make sure that what recovery left out at the end of the log stays
    out. `place` is where the log continues. `changes` have `oldest` and `oldest_place`: nothing below them is needed
    any more. Raises DeviceError; then nothing is lost, and it may be called again.
    """
    found.make_durable(log)
    store.log_sync.begin_anew()
    for _ in range(2):
        store.write(**changes)
    # Only now, when neither superblock needs anything below `oldest`.
    data_pages = store.current.data_pages
    bury_discarded(log, data_pages, place, store.reclaimed_place + data_pages)

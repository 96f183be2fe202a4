# SPDX-License-Identifier: BSD-3-Clause
"""A log that is made, with content, while its origin is in use with another one.

The origin's mark names the other one until this one is complete and durable, so
nothing here has to be in any order; only superblocks must not speak of what is
not durable.
"""

from collections.abc import Callable

from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.device.device import Device
from wbcache_core.flow.bad_blocks import pages_to_carry
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.server.config import Config
from wbcache_core.server.log_preparation import make_room, open_joinable, without_content
from wbcache_core.server.opening import Joining, blank_superblock
from wbcache_core.volume.one_generation import RING_BYTES, OneGeneration


class NewLog:
    """For one thread. After a DeviceError start over with another object."""

    def __init__(self, config: Config, origin: Device, formats: bool) -> None:
        """Open it, or create it. What it holds is given up if that is nothing that the origin lacks, or with `formats`.
        Nothing that exists is written. Raises WbcacheError."""
        self._config = config
        self._origin = origin
        self.name = config.log
        opened = open_joinable(config, origin, Joining(formats))
        self.device, self.side = opened.log, opened.side
        try:
            make_room(self.device, config, origin)
            blank = blank_superblock(origin, self.side, self.device.size)
        except BaseException:
            self.device.close()
            raise
        self.volume = blank.uuid
        self._store = SuperblockStore(self.device, None, blank)

    def close(self) -> None:
        """If nobody else is going to use the device."""
        self.device.close()

    @property
    def room(self) -> int:
        """Pages that it may have before the first write, which leave room for later ones."""
        data_pages = self._store.current.data_pages
        return data_pages - 2 * MAX_SEGMENT_PAGES - pages_to_carry(data_pages)

    def format(self, batch_end: int) -> None:
        """As a log without content. See the superblock for batch_end. Raises DeviceError."""
        first = without_content(self._store.current, self._origin, clock.read())
        self._store.format(first.with_changes(batch_end=batch_end))

    def append_whole(self, generation: OneGeneration, check: Callable[[], None]) -> None:
        """The first generation; durable when it returns. Raises what it and `check` raise, too, and DeviceError."""
        superblock, ring = self._store.current, RingBuffer(RING_BYTES)
        writer = LogWriter(
            self.device, superblock.data_pages, superblock.uuid, ring, LogEnd(0, 0, 0, Reading(0), superblock.epoch),
            self._config.compress, self._store.log_sync,
        )  # fmt: skip
        try:
            segments = generation.segments(ring, lambda _: check())
            writer.write_whole(segments, superblock.committed, self._store.reclaimed_place)
        finally:
            writer.close()

    def note_committed(self, end: int) -> None:
        """In both superblocks: from then on damage is not taken for a torn end. Raises DeviceError."""
        for _ in range(2):
            self._store.write(committed=end)

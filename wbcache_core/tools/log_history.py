# SPDX-License-Identifier: BSD-3-Clause
"""The past moments covered by a log that no server holds: found, compared and read, without writing a byte.

    origin + log[destaged, end of a generation)  =  the volume at that generation

for every generation that recovery finds from `batch_end` on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from wbcache_core import clock
from wbcache_core.counters import Counters
from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.errors import ConfigError, DamagedLogError, DeviceError, OutsideWindowError
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import Found, from_oldest, line_of, recover
from wbcache_core.log.superblocks import newest
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import parse_when, resolve
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.pairing import pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.server.config import Config
from wbcache_core.server.ring_memory import describe_uncommitted
from wbcache_core.tools.offline_devices import opened_origin
from wbcache_core.tools.standard_streams import tell
from wbcache_core.units import pages_of
from wbcache_core.volume.changed_extents import Change, changes
from wbcache_core.volume.reader import VolumeReader


class LogHistory:
    """What the log covers. `slots` are its superblocks, `recovered` is what recovery found."""

    def __init__(self, log: Device, kept: list[Found] | None = None) -> None:
        """All segments that are intact in the log are added to `kept`, including clean ones from `oldest` on, which are
        not among the moments.

        Raises OutsideWindowError for a blank log, LogRefusedError, DeviceError.
        """
        slots = pairing.read_log(log)
        superblock = newest(slots) if slots else None
        if slots is None or superblock is None:
            raise OutsideWindowError(f"log '{log.name}' is blank: it covers no moment")
        self.log = log
        self.slots = slots
        self.superblock = superblock
        self._reader = LogReader(log, superblock.data_pages, superblock.uuid)
        if kept is not None:
            kept += self._clean_part()
        self.recovered = recovered = recover(log, self._reader, superblock, kept)
        self.uncommitted = describe_uncommitted(log.name, superblock, recovered)
        """What only the ring of a killed server has, for users; empty if nothing."""

    def check_no_copy(self) -> None:
        """Before anything is written. Raises CopyError."""
        pairing.check_no_copy(self.superblock, self.log)

    def tell_uncommitted(self) -> None:
        """On standard error, if there is any."""
        if self.uncommitted:
            tell(f"wbcache: {self.uncommitted}")

    def _clean_part(self) -> list[Found]:
        """The segments from `oldest` to `destaged`; none if they are damaged, since nothing needs them."""
        superblock = self.superblock
        earlier = from_oldest(self._reader, superblock) if superblock.oldest < superblock.destaged else None
        if earlier is None:
            return []
        segments: list[Found] = []
        try:
            recover(self.log, self._reader, earlier, segments)
        except DamagedLogError:
            return []
        return [found for found in segments if found.descriptor.first_lsn < superblock.destaged]

    def resolve(self, text: str) -> Generation:
        """What a WHEN means. Raises MalformedMomentError, OutsideWindowError, TagError."""
        return resolve(
            parse_when(text), self.recovered.covered.generations, self.superblock.tags, clock.read()
        )  # fmt: skip

    def map_between(self, start_lsn: int, end_lsn: int) -> LocationMap:
        """The blocks that were written or cleared between two LSNs, both ends of generations, with what they were at
        the end."""
        locations = LocationMap()
        if start_lsn < end_lsn:
            self.recovered.covered.records.between(start_lsn, end_lsn).replay(locations)
        return locations

    def map_at(self, generation: Generation) -> LocationMap:
        """The volume at a generation: what is not in the map is on the origin."""
        return self.map_between(self.superblock.destaged, generation.end_lsn)

    def changes(self, changed: LocationMap, then: LocationMap, origin: Device | None = None) -> Iterator[Change]:
        """All blocks that the first of two of these maps has, as they are in the second; see changed_extents.py."""
        return changes(changed, then, 1, range(pages_of(self.superblock.origin_bytes)), origin)

    def reader(self, locations: LocationMap, origin: Device) -> VolumeReader:
        """Reads the volume that a map of this log describes."""
        superblock, recovered = self.superblock, self.recovered
        ring = RingBuffer(0)
        line = line_of(superblock, recovered, ring.pages, Config().policy(superblock.data_pages))
        # Clean data is just as good on the origin, and more of it may be readable there.
        line.oldest = superblock.destaged
        return VolumeReader(line, ring, locations, recovered.table, self._reader, origin, Counters())

    @contextmanager
    def paired_origin(self, text: str | None, log: FileDevice) -> Iterator[Device]:
        """The origin, open for reading: the one named, or the one that the log was last served with.

        Raises ConfigError, DeviceError if it cannot be opened, LogRefusedError if it is not as the log left it.
        """
        with ExitStack() as stack:
            try:
                origin = stack.enter_context(opened_origin(text or self.superblock.origin_name, log, read_only=True))
            except (ConfigError, DeviceError) as error:
                if text:
                    raise
                raise ConfigError(
                    f"the origin, which has some of the data, cannot be opened where it was last: {error}; "
                    "name it with --origin"
                ) from None
            side = OriginSide.of(origin)
            pairing.check_size(self.superblock, origin, log)
            pairing.check_mark(side, self.superblock.uuid, log.name, ())
            # A change is refused even if a server would accept it: this is about what the origin was.
            pairing.is_origin_changed(
                self.superblock, side, origin, log, self.recovered.locations, dirty=True, force=()
            )  # fmt: skip
            yield origin

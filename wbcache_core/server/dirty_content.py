# SPDX-License-Identifier: BSD-3-Clause
"""What the origin lacks of the live volume, while nothing changes it: read from ring and log, and verified."""

from collections.abc import Iterator

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import ControlError, DamagedPageError, DeviceError
from wbcache_core.log.reader import LogPiece, LogReader, page_views
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import PAGE_SHIFT, pages_of
from wbcache_core.volume.changed_extents import Change, changes
from wbcache_core.volume.reader import VolumeReader


class DirtyContent:
    """No write can take an LSN meanwhile, and `destaged` does not move. Commits may still be going on."""

    def __init__(
        self, line: NumberLine, locations: LocationMap, table: SegmentTable, log: LogReader, reader: VolumeReader,
        volume_bytes: int,
    ) -> None:  # fmt: skip
        self._line = line
        self._map = locations  # guarded by the volume lock; nobody changes it now
        self._table = table  # guarded by the volume lock
        self._log = log
        self._reader = reader
        self._volume_bytes = volume_bytes

    def changes(self) -> Iterator[Change]:
        """All blocks whose newest version is at or above `destaged`, in order."""
        return changes(self._map, self._map, self._line.destaged, range(pages_of(self._volume_bytes)))

    def read(self, view: memoryview, block: int) -> None:
        """Fill a view of whole pages with the data of blocks that changes() has, from a block on.

        What has been committed is what its checksum says; of a page that memory has in another state, the log's copy is
        taken. Raises ControlError if neither has it.
        """
        offset = block << PAGE_SHIFT
        try:
            self._reader.read_into(view[: min(len(view), self._volume_bytes - offset)], offset)
            self._verify(view, block)
        except (DeviceError, DamagedPageError) as error:
            raise ControlError(
                f"bytes {offset} to {min(offset + len(view), self._volume_bytes)} of the volume cannot be read in "
                f"full, neither from memory nor from the log, and the origin lacks them: {error}; nothing has been "
                "changed, and no other log takes its place, since those bytes would be lost; if the log device comes "
                "back, try again; if not, copy what can be read (nbdcopy) before you stop the server"
            ) from None

    def _verify(self, view: memoryview, block: int) -> None:
        """Raises DeviceError, DamagedPageError."""
        pages = page_views(view)
        found = list(map(xxh3_64_intdigest, pages))
        with self._line.lock:
            bad = [
                (index, LogPiece(lsn, self._table.locate(lsn), [self._table.page_sum(lsn)]))
                for index, lsn in enumerate(self._map.entries(block, len(pages)))
                if lsn < self._line.committed and self._table.page_sum(lsn) != found[index]
            ]
        for index, piece in bad:
            self._log.read_into(piece, pages[index])

# SPDX-License-Identifier: BSD-3-Clause
"""Past moments of the log that a standby has, read from that log and the origin of this node.

A moment is shown when every later owner has it as well: its number will not name
another one. Each has a table of its own that says where its segments are, so
reading it does not wait for what the owner sends meanwhile.
"""

import threading

from wbcache_core.counters import Counters
from wbcache_core.device.device import Device
from wbcache_core.errors import OutsideWindowError, SnapshotEndedError
from wbcache_core.flow.retention import Pins
from wbcache_core.flow.standby_line import StandbyLine
from wbcache_core.log.hot_log import HotLog
from wbcache_core.log.reader import LogReader
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.memory import moments
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.memory.cursors import NO_MARK
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.volume.reader import VolumeReader
from wbcache_core.volume.snapshot import Sources
from wbcache_core.volume.snapshots import Snapshots


def check_not_ended(log: StandbyLog, hot: HotLog) -> None:
    """Raises SnapshotEndedError if what was read of a moment of that HotLog may be something else."""
    copy = log.copy
    # There is another one before the first piece of a filling is taken, too.
    if copy.hot is not hot or copy.failure:
        raise SnapshotEndedError(
            "the snapshot has ended: the log of this standby was cut off, has begun anew, or has to be read again; "
            "open it again"
        )


class _MomentLine:
    """The number line up to a moment, which has no ring. `lock` guards nothing: the cursors are those of a superblock,
    which is replaced as a whole. It is one of the log as it was when the moment was opened: the first of a log that
    begins anew says that the origin has what it is still to be filled with."""

    ring_pages = 0
    ring_start = ring_floor = NO_MARK

    def __init__(self, hot: HotLog, end_lsn: int) -> None:
        self.lock = threading.Lock()
        self.committed = self.head = end_lsn
        self._hot = hot

    @property
    def destaged(self) -> int:
        return self._hot.superblock.destaged

    @property
    def oldest(self) -> int:
        return self._hot.superblock.oldest


class StandbySnapshots(Snapshots):
    """Of one HotLog: when the log is cut off, or begins anew, there is another one. The volume lock is the log's."""

    def __init__(
        self, log: StandbyLog, hot: HotLog, line: StandbyLine, pins: Pins, reader: LogReader, origin: Device
    ) -> None:  # fmt: skip
        self._log = log
        self._hot = hot
        self._reader = reader
        self._origin = origin
        super().__init__(line, hot.covered, pins, self._until)

    def _until(self, generation: Generation) -> Sources:
        """What that moment is read from. Lock held."""
        line = _MomentLine(self._hot, generation.end_lsn)
        table = self._hot.table.part(line.destaged, generation.end_lsn)
        reader = VolumeReader(line, RingBuffer(0), LocationMap(), table, self._reader, self._origin, Counters())
        return Sources(line, reader, self._origin)

    def shown(self) -> tuple[Generation | None, Generation | None]:
        """The oldest and the newest moment that can be opened. Lock held."""
        generations = self._covered.generations
        newest = generations.ending_at_or_below(self._end_of_shown())
        return (generations.oldest, newest) if newest else (None, None)

    def _end_of_shown(self) -> int:
        """No moment that ends above that is shown. Lock held."""
        log, head = self._log, self._log.copy.head
        superblock = log.superblock
        assert superblock
        # What a standby has put on its origin, or is about to, is in all logs. An owner may have left out the others.
        on_origin = 0 if log.may_be_ahead else max(superblock.destaged, superblock.batch_end)
        end = min(max(log.agreed, on_origin), log.copy.synced)
        if end < head or (log.standing and log.standing.committed == head):
            return end
        # The rest of the last commit may be on its way.
        return head - 1

    def _resolve(self, when: moments.When) -> tuple[Generation, bool]:
        check_not_ended(self._log, self._hot)
        generation, _ = super()._resolve(when)
        end = self._end_of_shown()
        newest = self._covered.generations.ending_at_or_below(end)
        if generation.end_lsn <= end:
            # What comes after that may be written again, at another time.
            return generation, moments.is_final(when, generation, newest)
        if when.is_last_flush and newest:
            return newest, False
        shown = moments.describe(newest) if newest else "none"
        raise OutsideWindowError(
            f"{moments.describe(generation)} is not shown here yet: this standby does not know that the whole of it is "
            f"in the logs of all nodes that count; the newest that it shows is {shown}"
        )

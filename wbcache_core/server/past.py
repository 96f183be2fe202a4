# SPDX-License-Identifier: BSD-3-Clause
"""The past of a cache, for whoever asks: which moments can be opened, and opening them. Works before anybody writes."""

from wbcache_core.device.device import Device
from wbcache_core.flow.committer import Committer
from wbcache_core.flow.retention import Pins
from wbcache_core.format.superblock import Tag
from wbcache_core.log.takeover import FoundData
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.generations import Generation
from wbcache_core.memory.moments import LAST_FLUSH
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.server import history
from wbcache_core.server.history import Facts
from wbcache_core.volume.comparison import Comparison
from wbcache_core.volume.snapshot import Snapshot
from wbcache_core.volume.snapshots import Snapshots


class Past:
    def __init__(
        self, line: NumberLine, covered: CoveredLog, pins: Pins, snapshots: Snapshots, committer: Committer,
        found: FoundData | None, log: Device,
    ) -> None:  # fmt: skip
        """`found` is what recovery found in the log, if there was one."""
        self._line = line
        self._covered = covered  # guarded by the volume lock
        self._pins = pins  # guarded by the volume lock
        self._snapshots = snapshots
        self._committer = committer
        self._found = found
        self._log = log

    def window(self) -> tuple[list[Generation], tuple[Tag, ...]]:
        """The generations that can be opened now, oldest first, and the tags. Takes time linear in their number."""
        with self._line.lock:
            return list(self._covered.generations), self._pins.tags

    def window_ends(self) -> tuple[Generation | None, Generation | None, tuple[Tag, ...]]:
        """The oldest and the newest generation that can be opened now, None if there is none, and the tags."""
        with self._line.lock:
            return self._covered.generations.oldest, self._covered.generations.newest, self._pins.tags

    def history(self, query: history.Query) -> Facts:
        """The window, what was written when, and the tags, ready for JSON."""
        with self._line.lock:
            choice = history.choose(self._covered, query)
            tags = self._pins.tags
        return history.describe(choice, tags)

    def open_snapshot(self, when: str) -> Snapshot:
        """See Snapshots.open(). Raises DeviceError too."""
        self._sync_what_was_found()
        return self._snapshots.open(when)

    def open_export(self, name: str) -> Snapshot | Comparison:
        """See Snapshots.open_export(). Raises DeviceError too."""
        self._sync_what_was_found()
        return self._snapshots.open_export(name)

    def resolve(self, name: str) -> tuple[Generation, ...]:
        """See Snapshots.resolve_export(). Raises DeviceError too."""
        self._sync_what_was_found()
        return self._snapshots.resolve_export(name)

    def compare(self, start: str, end: str) -> Comparison:
        """See Snapshots.compare(). Before last-flush comes a commit. Raises LogFailedError, DeviceError too."""
        self._sync_what_was_found()
        if self._line.writable and LAST_FLUSH in (start, end):
            self._committer.commit_all()
        return self._snapshots.compare(start, end)

    def _sync_what_was_found(self) -> None:
        """What a killed server wrote may be only in the page cache. A moment that was seen must not vanish with the
        power: another one would get its number. Raises DeviceError."""
        if self._found and not self._line.writable:
            self._found.make_durable(self._log)

# SPDX-License-Identifier: BSD-3-Clause
"""The past of a standby with an origin of its own, from its own copy: nothing of it is asked of the owner."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wbcache_core.device.device import Device, Extent
from wbcache_core.errors import DeviceError, OutsideWindowError, RequestError, SnapshotEndedError, StoppedError
from wbcache_core.flow.standby_retention import StandbyRetention
from wbcache_core.format.superblock import Superblock, Tag
from wbcache_core.log.hot_log import HotLog
from wbcache_core.log.reader import LogReader
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.memory.generations import Generation
from wbcache_core.server import history
from wbcache_core.server.history import Facts, moment
from wbcache_core.volume.changed_extents import Change
from wbcache_core.volume.comparison import Comparison
from wbcache_core.volume.snapshot import Snapshot
from wbcache_core.volume.standby_snapshots import StandbySnapshots, check_not_ended

_LONGEST_WAIT = 0.2
"""Seconds."""
_NO_PAST = OutsideWindowError, SnapshotEndedError
"""There is nothing to show now."""


class PastExport:
    """What one client has open: a moment, or what changed between two. Offsets and lengths are bytes. As a Snapshot or
    a Comparison; it ends as well when the log is cut off, or begins anew, and when the standby takes over."""

    def __init__(self, past: "StandbyPast", hot: HotLog, opened: Snapshot | Comparison, size: int) -> None:
        self._past = past
        self._hot = hot
        self._opened = opened
        self.size = size
        self.description = opened.description

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Raises RequestError, DeviceError."""
        with self._past.request(self._hot):
            self._opened.read_into(buffer, offset)

    def extents(self, count: int, offset: int, only_one: bool = False) -> list[Extent]:
        """Raises RequestError, DeviceError."""
        with self._past.request(self._hot):
            return self._opened.extents(count, offset, only_one)

    def prefetch(self, count: int, offset: int) -> None:
        """Raises RequestError, DeviceError."""
        with self._past.request(self._hot):
            self._opened.prefetch(count, offset)

    def close(self) -> None:
        """Release what is open. Idempotent."""
        self._opened.close()


class StandbyComparison:
    """For a page of `wbcache diff`: as a Comparison, checked like a PastExport."""

    def __init__(
        self, past: "StandbyPast", log: StandbyLog, hot: HotLog, opened: Comparison, size: int
    ) -> None:  # fmt: skip
        self._past = past
        self._log = log
        self._hot = hot
        self._opened = opened
        self.start, self.end, self.size = opened.start, opened.end, size

    def changes(self, offset: int = 0) -> Iterator[Change]:
        """See Comparison.changes(). Raises SnapshotEndedError, DeviceError."""
        with self._past.request(self._hot):
            for change in self._opened.changes(offset):
                # Whoever asks may not go on to the end.
                check_not_ended(self._log, self._hot)
                yield change

    def close(self) -> None:
        """Release what is open. Idempotent."""
        self._opened.close()


class StandbyPast:
    """Locks, outermost first: the log's, `_lock`, which guards `_requests` and `_is_closed`. `_snapshots` is guarded by
    the log's lock."""

    def __init__(self, log: StandbyLog, log_device: Device, origin: Device, retention: StandbyRetention) -> None:
        self._log = log
        self._log_device = log_device
        self._origin = origin
        self._retention = retention
        self._snapshots: StandbySnapshots | None = None
        self._hot: HotLog | None = None
        """`_snapshots` are of this one."""
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._requests = 0
        self._is_closed = False
        self._last_facts: Facts = {"window": None, "snapshots": [], "tags": []}
        """As facts() found them; replaced as a whole."""

    def _present(self) -> tuple[StandbySnapshots, HotLog, Superblock]:
        """Those of the log as it is. Log lock held. Raises OutsideWindowError if it has no past, SnapshotEndedError if
        another server may have it."""
        self._check_open()
        superblock, hot = self._log.superblock, self._log.copy.hot
        if superblock is None or hot is None:
            raise OutsideWindowError("this standby has no past moment yet: no owner has connected")
        if superblock.is_inconsistent:
            raise OutsideWindowError(
                "the origin of this standby is being filled: there is no past moment before that has been done"
            )
        if self._log.copy.failure:
            raise OutsideWindowError("this standby has no past moment now: its log has to be read again")
        pins = self._retention.of(superblock, hot)
        if self._snapshots is None or self._hot is not hot:
            reader = LogReader(self._log_device, superblock.data_pages, superblock.uuid)
            self._snapshots = StandbySnapshots(self._log, hot, self._retention.line, pins, reader, self._origin)
            self._hot = hot
        return self._snapshots, hot, superblock

    def open_export(self, name: str) -> PastExport:
        """What the export @name shows. The caller closes it. Raises what Snapshots.open_export() does,
        OutsideWindowError."""
        with self._under_way():
            with self._log.lock:
                snapshots, hot, superblock = self._present()
            return PastExport(self, hot, snapshots.open_export(name), superblock.origin_bytes)

    def compare(self, start: str, end: str) -> StandbyComparison:
        """Open two moments. The caller closes it. Raises what Snapshots.compare() does, OutsideWindowError."""
        with self._under_way():
            with self._log.lock:
                snapshots, hot, superblock = self._present()
            return StandbyComparison(self, self._log, hot, snapshots.compare(start, end), superblock.origin_bytes)

    def resolve(self, name: str) -> tuple[Generation, ...]:
        """See Snapshots.resolve_export(). Raises OutsideWindowError, SnapshotEndedError too."""
        with self._under_way():
            with self._log.lock:
                snapshots, _, _ = self._present()
            return snapshots.resolve_export(name)

    def window_ends(self) -> tuple[Generation | None, Generation | None, tuple[Tag, ...]]:
        """The oldest and the newest moment that can be opened now, None if there is none, and the tags."""
        with self._log.lock:
            try:
                snapshots, _, superblock = self._present()
            except _NO_PAST:
                return None, None, ()
            return *snapshots.shown(), superblock.tags

    def history(self, query: history.Query) -> Facts:
        """The window, what was written when, and the tags, ready for JSON."""
        with self._log.lock:
            try:
                snapshots, hot, superblock = self._present()
            except _NO_PAST:
                return history.describe(None, ())
            _, newest = snapshots.shown()
            choice = history.choose(hot.covered, query, newest) if newest else None
            tags = superblock.tags
        return history.describe(choice, tags)

    def facts(self) -> Facts:
        """For the status, ready for JSON. While the log waits for its device, they are those of the last time."""
        if self._log.lock.acquire(timeout=_LONGEST_WAIT):
            try:
                self._last_facts = self._find_facts()
            finally:
                self._log.lock.release()
        return self._last_facts

    def _find_facts(self) -> Facts:
        """Log lock held."""
        try:
            snapshots, _, superblock = self._present()
        except _NO_PAST:
            return {"window": None, "snapshots": [], "tags": []}
        oldest, newest = snapshots.shown()
        opened, tags = snapshots.opened(), superblock.tags
        count = newest.number - oldest.number + 1 if oldest and newest else 0
        return {
            "window": history.window(oldest, newest, count) if oldest and newest else None,
            "snapshots": [{**moment(generation), "opened": users} for generation, users in opened],
            "tags": [{"name": tag.name, **moment(Generation.of(tag))} for tag in tags],
        }  # fmt: skip

    @contextmanager
    def request(self, hot: HotLog) -> Iterator[None]:
        """Something is read of a moment of that log. Raises SnapshotEndedError if what was read may be something
        else."""
        with self._under_way():
            try:
                yield
            except StoppedError:
                # At the stop of the server that has no answer before its end, and after a takeover there is no end.
                self._check_open()
                raise
            except (RequestError, DeviceError):
                # Whoever is about to cut the log off has the lock.
                with self._log.lock:
                    check_not_ended(self._log, hot)
                raise
            check_not_ended(self._log, hot)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """close() waits for the end of the `with`. Raises SnapshotEndedError."""
        with self._lock:
            self._check_open()
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                self._ended.notify_all()

    def _check_open(self) -> None:
        """`_lock` or the log's held, or a moment later will do: the log is not given away before `_is_closed` is
        set. Raises SnapshotEndedError."""
        if self._is_closed:
            raise SnapshotEndedError("the snapshot has ended: this server stops, or has taken over; open it again")

    def end(self) -> None:
        """All that is open has ended, and nothing new is read. Idempotent."""
        with self._lock:
            self._is_closed = True

    def close(self) -> None:
        """end(), and return when nothing is read any more. Idempotent."""
        self.end()
        with self._lock:
            self._ended.wait_for(lambda: not self._requests)

# SPDX-License-Identifier: BSD-3-Clause
"""Group commit: moves `committed`. Leaders and followers, and a thread that commits in the background.

Whoever needs `committed` to pass an LSN becomes the leader and commits
everything there is, or waits for the present leader: many flushes share one
sync, and all whose LSN it passed continue at the same time. Lock order:
superblock, volume.
"""

import contextlib
import logging
import threading
import time
from time import monotonic_ns as now_ns

from wbcache_core.counters import Counters
from wbcache_core.errors import CommitFailedError, DeviceError, LogFailedError, SyncFailedError
from wbcache_core.flow.commit_delay import CommitDelay
from wbcache_core.flow.failure import fail, fail_log, raise_if_log_failed
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.log.geometry import COMMIT_PAGES
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.writer import LogWriter
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.threads import StartTogether, Turn

_log = logging.getLogger("wbcache")

SUPERBLOCK_PAGES = 16384
"""A superblock records `committed` at least every this many pages (64 MiB) of log.

So recovery has to look for later segments only within a window beyond the end of the log.
"""

_STOP_PATIENCE, _STOP_PAUSE = 2.0, 0.2
"""Seconds for which a stop tries to commit what was acknowledged, and seconds between its attempts."""

_PEER_PAUSE = 1.0
"""Seconds between two looks whether the peers have answered."""

_INTERNAL = "internal error in commit: {}; the volume takes no more writes; start the server again"


class Committer:
    def __init__(
        self,
        line: NumberLine,
        table: SegmentTable,
        covered: CoveredLog,
        writer: LogWriter,
        store: SuperblockStore,
        shipping: Shipping,
        counters: Counters,
    ) -> None:
        self._lock = threading.Lock()
        """Guards `_has_leader`, `_waiters` and `_delay`. Nothing else is taken while it is held."""
        self._has_leader = False
        self._seconds = 0.0  # the leader's
        """How long the last commit took."""
        self._waiters: list[tuple[int, Turn]] = []
        """Waiters as (LSN, what they wait for), in order of arrival.

        A condition would have each of them take `_lock` once more, all at the same moment.
        """
        self._delay = CommitDelay()
        self._line = line
        self._table = table
        self._covered = covered  # guarded by the volume lock
        self._writer = writer  # the leader's
        self._store = store
        self._shipping = shipping
        self._counters = counters
        self._superblock_place = writer.end.place  # the leader's
        self._unfinished = False  # the leader's
        """A commit has begun and not finished: the log may hold segments that nothing knows of."""
        self._reported = ""  # the leader's
        """The last reported error of a log that cannot be written; empty if it can."""
        self._superblock_failed = False  # the leader's
        """A superblock is due, and the last attempt to write it failed."""
        self._thread: threading.Thread | None = None  # only start() and join() use it

    @property
    def generation(self) -> int:
        """Number of the last commit."""
        return self._writer.end.generation

    def start(self, together: StartTogether) -> None:
        """The thread, as one of several. Raises NoThreadError."""
        self._thread = together.add("wbcache-commit", self._run)

    def join(self) -> None:
        """Wait for the thread; the line has been stopped. Idempotent."""
        if self._thread:
            self._thread.join()
        self._writer.close()

    def commit_until(self, lsn: int) -> None:
        """Return when every LSN below lsn is durable in the log. No lock held.

        Raises LogFailedError, and CommitFailedError if an attempt failed that began after the call.
        """
        line = self._line
        begun = line.commits.begun
        while line.committed < lsn:
            if self._lead(lsn, begun):
                try:
                    self._wait_for_company()
                    started = time.monotonic()
                    self._commit()
                    self._seconds = time.monotonic() - started
                finally:
                    with self._lock:
                        self._has_leader = False
                        self._wake_waiters()

    def _wait_for_company(self) -> None:
        """By the leader, if it is likely that others are about to flush too."""
        with self._lock:
            waits = self._delay.begin(len(self._waiters))
        if waits:
            self._delay.wait()
            with self._lock:
                self._delay.end()

    def _lead(self, lsn: int, begun: int) -> bool:
        """Become the leader; returns False if another leader's commit has passed lsn. Raises the same as
        commit_until()."""
        while True:
            with self._lock:
                if not self._has_leader:
                    self._take_the_lead(begun)
                    return True
                turn = Turn()
                self._waiters.append((lsn, turn))
                self._delay.note_waiter(len(self._waiters))
            turn.wait()
            if self._line.committed >= lsn:
                return False
            self._line.commits.raise_if_failed_since(begun)

    def _take_the_lead(self, begun: int) -> None:
        """There is no leader. Lock held. Raises the same as commit_until()."""
        if self._line.log_error:
            self._wake_waiters()
        raise_if_log_failed(self._line)
        if self._line.commits.error:
            self._line.commits.raise_if_failed_since(begun)
        self._has_leader = True

    def _wake_waiters(self) -> None:
        """Wake those whose LSN has been passed, and one more, to lead; all if the commit has failed. Lock held.

        The others came during the commit, and would only fall asleep again.
        """
        try:
            self._wake_some()
        except BaseException:
            # No memory to choose: all of them check for themselves. Whoever is not woken now sleeps for ever.
            for _, turn in self._waiters:
                turn.give()
            self._waiters.clear()
            raise

    def _wake_some(self) -> None:
        """If it raises, nobody has been taken from `_waiters`. Lock held."""
        asleep = []
        served = 1
        committed, has_failed = self._line.committed, bool(self._line.log_error or self._line.commits.error)
        has_successor = False
        for waiter in self._waiters:
            lsn, turn = waiter
            if lsn <= committed or has_failed:
                served += 1
                turn.give()
            elif has_successor:
                asleep.append(waiter)
            else:
                has_successor = True
                turn.give()
        if not has_failed:
            self._counters.served += served
        self._delay.note_commit(served, len(asleep) + has_successor, self._seconds)
        self._waiters = asleep

    def commit_all(self) -> None:
        """Commit whatever is volatile now. No lock held. Raises what commit_until() does."""
        with self._line.lock:
            head = self._line.head
        self.commit_until(head)

    def commit_before_stop(self) -> None:
        """Like commit_all(), but a failed write is retried for a while: no request is going to repeat it."""
        deadline = time.monotonic() + _STOP_PATIENCE
        while True:
            try:
                self.commit_all()
                return
            except CommitFailedError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_STOP_PAUSE)

    def _commit(self) -> None:
        """One write and one sync, by the leader. A failure is noted in the line, and for good unless a write failed."""
        line = self._line
        if self._unfinished:
            # Not even that could be latched.
            fail(line, LogFailedError(_INTERNAL.format("a commit did not come to its end")))
            return
        line.commits.begun += 1
        self._unfinished = True
        try:
            if self._superblock_failed:
                # Without the superblock the log must not grow any further.
                self._note_in_superblock()
            self._write_next()
        except SyncFailedError as error:
            fail_log(line, error)
        except DeviceError as error:
            self._unfinished = False
            self._note_failure(error)
        except BaseException as error:
            # What is durable and what the table knows may differ: nothing may be committed beyond such a gap.
            fail(line, LogFailedError(_INTERNAL.format(repr(error))))
            raise
        else:
            self._unfinished = False
            if line.commits.error:
                self._note_success()
            if self._writer.end.place - self._superblock_place > SUPERBLOCK_PAGES:
                self._try_to_note_in_superblock()

    def _write_next(self) -> None:
        """Make the next segments, or those that could not be written, durable, then known, then committed.

        Raises DeviceError, then nothing has moved.
        """
        line, began = self._line, now_ns()
        if not self._writer.is_prepared:
            with line.lock:
                segments = self._next_segments()
                while segments and not self._is_room_at_peers(segments):
                    line.moved.wait(_PEER_PAUSE)
                    segments = self._next_segments()
                committed, reusable_place = line.committed, line.reusable_place
            if not segments:
                return
            self._writer.prepare(segments, committed, reusable_place)
            self._shipping.offer(self._writer)
        written = self._writer.write()
        self._counters.commits.note(now_ns() - began)
        pages = sum(segment.descriptor.log_pages for segment in written)
        self._counters.log_pages += pages
        with line.lock:
            for segment in written:
                descriptor = segment.descriptor
                self._table.append(
                    descriptor.first_lsn, segment.place, descriptor.encoding, segment.page_sums
                )
                self._covered.append(descriptor)
            line.note_committed(written[-1].descriptor.end_lsn, self._writer.end.place)
            for _ in written:
                line.closed_segments.popleft()
            if line.destager_idle or line.dirty_pages > line.policy.low_pages:
                line.destage_wanted.notify()
        self._shipping.note_commit()

    def _is_room_at_peers(self, segments: list[PendingSegment]) -> bool:
        """Whether the logs of all peers that count have room for them. Only what another server left in the ring may
        have to wait, until its peers have been asked. Lock held. Raises DeviceError if the server stops."""
        line = self._line
        if line.peers_place >= line.reclaimed_place:
            return True
        most = sum(1 + segment.page_count for segment in segments) + MAX_SEGMENT_PAGES
        if line.write_place + most <= line.peers_place + line.data_pages:
            return True
        if line.log_error or line.stopping:
            raise DeviceError("it is not known what the peers still need of the log: none has answered yet")
        return False

    def _next_segments(self) -> list[PendingSegment]:
        """The next closed segments, at most COMMIT_PAGES; closes the open one if there is room. Volume lock held.

        They stay in the queue until they are committed.
        """
        line = self._line
        found: list[PendingSegment] = []
        room = COMMIT_PAGES
        for segment in line.closed_segments:
            room -= 1 + segment.page_count
            if room < 0:
                return found
            found.append(segment)
        if line.open_segment and 1 + line.open_segment.page_count <= room:
            line.close_segment()
            found.append(line.closed_segments[-1])
        return found

    def _note_in_superblock(self) -> None:
        """By the leader. Raises DeviceError."""
        self._superblock_failed = True
        self._store.write(committed=self._line.committed)
        self._superblock_place = self._writer.end.place
        self._superblock_failed = False

    def _note_failure(self, error: DeviceError) -> None:
        """By the leader: a write of this attempt failed. It is repeated."""
        line = self._line
        self._counters.commit_failures += 1
        with line.lock:
            line.commits.note_failure(
                CommitFailedError(f"{error}; what was written is not durable yet, try again", error.errno_value),
                time.monotonic(),
            )
            committed, head = line.committed, line.head
            line.moved.notify_all()
        if str(error) != self._reported:
            self._reported = str(error)
            _log.error(
                "%s; it is retried, and flushes fail until the log can be written; LSN %d to %d, which no flush "
                "covered, are only in this server's memory: make room if the log's file system is full; if the log "
                "does not recover, copy the volume (nbdcopy) before you stop the server", error, committed, head,
            )  # fmt: skip

    def _note_success(self) -> None:
        """By the leader: an attempt succeeded after one that failed."""
        with self._line.lock:
            self._line.commits.note_success()
        self._reported = ""
        _log.warning("the log can be written again")

    def _try_to_note_in_superblock(self) -> None:
        """By the leader, after a commit."""
        try:
            self._note_in_superblock()
        except SyncFailedError as error:
            fail_log(self._line, error)
        except DeviceError as error:
            # The commit is durable anyway. The next attempt begins with the superblock.
            _log.warning("%s; it is retried", error)

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                with contextlib.suppress(CommitFailedError):
                    self.commit_all()
        except LogFailedError:
            pass
        except Exception as error:
            _log.exception("internal error in commit, please report it")
            # Whoever waits for room in the ring waits for this thread.
            fail(self._line, LogFailedError(f"internal error in commit: {error!r}; the volume takes no more writes"))

    def _wait_until_due(self) -> bool:
        """Return True when there is something to commit, False if the server is stopping or the log has failed."""
        line = self._line
        with line.lock:
            while not (line.stopping or line.log_error):
                volatile = line.head > line.committed
                remaining = self._seconds_until_due() if volatile else line.policy.commit_interval
                if not volatile or remaining <= 0:
                    line.commit_requested = False
                if volatile and remaining <= 0:
                    return True
                notified = line.commit_wanted.wait(remaining)
                # After a whole interval without a write: sleep until the next one instead of waking for nothing.
                line.committer_idle = not notified
                while line.committer_idle and not (line.pending_since or line.stopping or line.log_error):
                    line.commit_wanted.wait()
                line.committer_idle = False
            return False

    def _seconds_until_due(self) -> float:
        """How long volatile data may still wait. Volume lock held."""
        line, commits = self._line, self._line.commits
        if commits.wanted > commits.begun:
            return 0.0
        due = 0.0 if line.commit_requested else line.pending_since + line.policy.commit_interval
        return max(due, commits.retry_at) - time.monotonic()

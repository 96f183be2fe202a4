# SPDX-License-Identifier: BSD-3-Clause
"""Group commit: moves `committed`. Leader and follower, and a thread that commits in the background.

Who needs `committed` to pass an LSN takes the commit lock and commits all
there is, or finds, once it gets the lock, that another has done it: many
flushes share one sync. Lock order: commit, superblock, volume.
"""

import logging
import threading
import time

from wbcache_core.errors import DeviceError, LogFailedError
from wbcache_core.log_writer import COMMIT_PAGES, LogWriter
from wbcache_core.number_line import NumberLine
from wbcache_core.pending_segment import PendingSegment
from wbcache_core.segment_table import SegmentTable
from wbcache_core.superblock_store import SuperblockStore

_log = logging.getLogger("wbcache")

SUPERBLOCK_PAGES = 16384
"""A superblock says where `committed` is at least every so many pages (64 MiB) of log.

Recovery then has to look for later segments only in a window behind the end of the log.
"""


class Committer:
    def __init__(
        self,
        line: NumberLine,
        table: SegmentTable,
        writer: LogWriter,
        store: SuperblockStore,
        interval: float,
        low_pages: int,
    ) -> None:
        """interval in seconds; above low_pages of dirty log the destager is woken."""
        self._commit_lock = threading.Lock()
        self._line = line
        self._table = table
        self._writer = writer  # guarded by the commit lock
        self._store = store
        self._superblock_place = writer.end.place  # guarded by the commit lock
        self._interval = interval
        self._low_pages = low_pages
        self._thread = threading.Thread(target=self._run, name="wbcache-commit", daemon=True)

    @property
    def generation(self) -> int:
        """Number of the last commit."""
        return self._writer.end.generation

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread; the line has been stopped. Nothing when it was never started."""
        if self._thread.ident:
            self._thread.join()

    def commit_until(self, lsn: int) -> None:
        """Return when every LSN below lsn is durable in the log. No lock held. Raises LogFailedError."""
        line = self._line
        while line.committed < lsn:
            with self._commit_lock:
                line.raise_if_log_failed()
                if line.committed < lsn:
                    self._commit()

    def commit_all(self) -> None:
        """Commit whatever is volatile now. No lock held. Raises LogFailedError."""
        with self._line.lock:
            head = self._line.head
        self.commit_until(head)

    def _commit(self) -> None:
        """One write and one sync. Commit lock held. A failure is latched in the line."""
        line = self._line
        with line.lock:
            segments = self._take()
            committed, reclaimed_place = line.committed, line.reclaimed_place
        if not segments:
            return
        try:
            written = self._writer.write(segments, committed, reclaimed_place)
        except DeviceError as error:
            line.fail_log(error)
            return
        except BaseException as error:
            # The segments have left the queue: whatever happened, nothing may be committed behind the gap.
            line.fail(LogFailedError(f"internal error in commit: {error!r}; the volume takes no more writes"))
            raise
        with line.lock:
            for segment in written:
                descriptor = segment.descriptor
                self._table.append(
                    descriptor.first_lsn, segment.place, descriptor.encoding, segment.page_sums
                )
            line.note_committed(segments[-1].end_lsn, self._writer.end.place)
            if line.destager_idle or line.dirty_pages > self._low_pages:
                line.destage_wanted.notify()
        if self._writer.end.place - self._superblock_place > SUPERBLOCK_PAGES:
            self._note_in_superblock()

    def _take(self) -> list[PendingSegment]:
        """The next closed segments, at most COMMIT_PAGES; closes the open one if there is room. Volume lock held."""
        line = self._line
        taken: list[PendingSegment] = []
        room = COMMIT_PAGES
        while line.closed_segments and 1 + line.closed_segments[0].page_count <= room:
            taken.append(line.closed_segments.popleft())
            room -= 1 + taken[-1].page_count
        if not line.closed_segments and line.open_segment and 1 + line.open_segment.page_count <= room:
            taken.append(line.open_segment)
            line.open_segment = None
        return taken

    def _note_in_superblock(self) -> None:
        """Commit lock held."""
        try:
            self._store.write(committed=self._line.committed)
        except DeviceError as error:
            self._line.fail_log(error)
        self._superblock_place = self._writer.end.place

    def _run(self) -> None:
        while self._wait_until_due():
            try:
                self.commit_all()
            except LogFailedError:
                return
            except Exception:
                _log.exception("internal error in commit, please report it")
                return

    def _wait_until_due(self) -> bool:
        """Return True when there is something to commit, False when the server stops or the log has failed."""
        line = self._line
        with line.lock:
            while not (line.stopping or line.log_error):
                volatile = line.head > line.committed
                remaining = line.pending_since + self._interval - time.monotonic() if volatile else self._interval
                if volatile and (line.commit_requested or remaining <= 0):
                    line.commit_requested = False
                    return True
                line.commit_requested = False
                notified = line.commit_wanted.wait(remaining)
                # After a whole interval without a write: sleep until the next one instead of waking for nothing.
                line.committer_idle = not notified
                while line.committer_idle and not (line.pending_since or line.stopping or line.log_error):
                    line.commit_wanted.wait()
                line.committer_idle = False
            return False

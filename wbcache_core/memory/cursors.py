# SPDX-License-Identifier: BSD-3-Clause
"""The number line: LSNs, the four cursors on it, and the lock and conditions everybody waits with.

    oldest  <=  destaged  <=  committed  <=  head
       |  clean     |    dirty    |  volatile  |

`head` is the next LSN to hand out; every LSN below `committed` is durable in
the log, below `destaged` durable on the origin; every LSN from `oldest` to
`committed` is intact in the log. A request is durable when a cursor has
passed it, so all waiting is waiting for a cursor.
"""

import logging
import threading
import time
from collections import deque

from wbcache_core.errors import (
    LogFailedError,
    OriginFailedError,
)
from wbcache_core.format.segment import MAX_SEGMENT_PAGES
from wbcache_core.memory.commit_attempts import CommitAttempts
from wbcache_core.memory.open_segment import PendingSegment
from wbcache_core.memory.policy import Policy

_log = logging.getLogger("wbcache")

_TIMELINE_GAP = 0.25
"""Seconds; commits closer together than this share one entry of the timeline, if that is short."""
_MOST_TIMES = 4096
"""Entries of the timeline, for what may be held back for weeks."""


NO_MARK = 1 << 64
"""No LSN reaches this."""


class NumberLine:
    """The cursors, and their positions in the log (`..._place`, see format/superblock.py).

    `lock` guards every field: all are written with it held, and read without it only where the reader looks again
    under the lock, or a stale value does no harm.
    `lock` is the volume lock: held for memory copies and look-ups, never across I/O, a sleep or a log message.
    """

    def __init__(
        self, ring_pages: int, data_pages: int, policy: Policy, carry_pages: int = 0, volatile_pages: int | None = None
    ) -> None:
        """Writers leave carry_pages of the log free, for blocks that have to be carried forward.

        volatile_pages is at most ring_pages, and by default that.
        """
        self.lock = threading.Lock()
        self.moved = threading.Condition(self.lock)
        """Notified when a cursor has moved, space was reclaimed, or something has failed or is stopping."""
        self.commit_wanted = threading.Condition(self.lock)
        self.destage_wanted = threading.Condition(self.lock)
        self.ring_wanted = threading.Condition(self.lock)
        """Notified at a commit after `head` has passed `ring_mark`."""
        self.ring_pages = ring_pages
        """So many of the newest LSNs are kept in the ring; never less than volatile_pages. See resize_ring()."""
        self.volatile_pages = volatile_pages or ring_pages
        """At most so many LSNs are not committed."""
        self.data_pages = data_pages
        self.head = self.committed = self.destaged = self.oldest = 1
        self.ring_start = 1
        """The ring has no LSN below this one: the head when the server started, or later what resize_ring() found."""
        self.ring_mark = NO_MARK
        self.open_segment: PendingSegment | None = None
        self.closed_segments: deque[PendingSegment] = deque()
        self.timeline: deque[tuple[int, float]] = deque()
        """(LSN, time.monotonic()): when `committed` reached that LSN; only for what is not destaged yet."""
        self._timeline_gap = _TIMELINE_GAP
        self.write_place = self.destaged_place = self.reclaimed_place = 0
        self.peers_received = self.peers_committed = NO_MARK
        """The lowest LSN that the peers that count have in memory, and durable; NO_MARK if none counts. See
        shipping/peer.py."""
        self.peers_place = NO_MARK
        """Their logs need the positions from here on."""
        self.limit = self.soft_limit = 0
        """`head` may not pass `limit`; a writer that would pass `soft_limit` has more to check than that."""
        self.pending_since = 0.0
        """When the oldest volatile page came, in seconds of time.monotonic(); 0 when there is none."""
        self.commit_requested = False
        self.committer_idle = False
        """The committer waits without a time limit and has to be told of the first volatile page."""
        self.destager_idle = False
        """The destager waits without a time limit and has to be told of new dirty data."""
        self.origin_target = 0
        """Somebody waits for `destaged` to reach this LSN."""
        self.drain_target = 0
        """What a drain while the server runs has to bring to the origin, up to this LSN; 0 if there is none."""
        self.room_waiters = 0
        """Writers that wait for log space."""
        self.quiesced = False
        """Whatever would change the volume waits. See server/quiesce.py."""
        self.quiesced_waiters = 0
        """Requests that wait for that to end."""
        self.is_handing_over = False
        """The origin is going to be served without this log: whatever would change the volume waits. See
        server/handover.py."""
        self.is_replaced = False
        """That has been done: requests go elsewhere."""
        self.writable = False
        self.writes_ended = False
        """A write failed between two of its steps: no other may follow it. Everything accepted before is intact."""
        self.stopping = False
        self.draining = False
        """While stopping: the destager goes on until the origin is complete."""
        self.log_error: LogFailedError | None = None
        """Why nothing is committed any more until the server is started again."""
        self.commits = CommitAttempts()
        self.origin_error: OriginFailedError | None = None
        self.origin_failed_at = 0.0
        """Since when, in seconds of time.monotonic()."""
        self.origin_settles_at = 0.0
        """The origin's `settles_at` (device/device.py), as the destager last saw it."""
        self.origin_incomplete: str | None = None
        """A message with the bytes that the origin rejects while it accepts others; they are in the log."""
        self.carried: deque[tuple[int, int]] = deque()
        """(first LSN, LSN after the last) of segments with nothing but such bytes; only what is not destaged yet."""
        self.carry_ring = 0
        """Pages of the ring that writers have to leave free at the moment."""
        self._carry_pages = carry_pages
        self.policy = policy
        """What is in force now. See apply()."""

    def apply(self, policy: Policy) -> None:
        """Put another policy in force for everything from now on. Takes the lock."""
        with self.lock:
            self.policy = policy
            if self.open_segment:
                self.open_segment.answer_at(policy.ack)
            self.refresh_limits()
            self.moved.notify_all()
            self.commit_wanted.notify_all()
            self.destage_wanted.notify_all()

    def admit_writers(self) -> None:
        """Let writers in. Takes the lock."""
        with self.lock:
            self.writable = True
            self.refresh_limits()

    def needed_from(self) -> tuple[int, int]:
        """(LSN, position) of the lowest cursor of all consumers of the log: what is below may be reused. Lock held."""
        return self.destaged, self.destaged_place

    @property
    def ring_floor(self) -> int:
        """The lowest LSN that the ring still holds. Lock held."""
        return max(self.ring_start, self.head - self.ring_pages)

    @property
    def free_pages(self) -> int:
        """Pages of the log that may be written. Lock held."""
        return self.data_pages - (self.write_place - self.reusable_place)

    @property
    def reusable_place(self) -> int:
        """Positions below it may be written again: neither this log nor that of a peer needs them. Lock held."""
        return min(self.reclaimed_place, self.peers_place)

    @property
    def room_in_log(self) -> int:
        """Pages of the log beyond `committed` that writers may fill. May be negative. Lock held."""
        return self.free_pages - MAX_SEGMENT_PAGES - self._carry_pages

    @property
    def is_origin_awaited(self) -> bool:
        """Whether somebody waits for the origin, or for log space that only the origin can free. Lock held."""
        return self.room_waiters > 0 or self.origin_target > self.destaged

    @property
    def dirty_pages(self) -> int:
        """Pages of the log that the origin still needs, volatile ones included. Lock held."""
        return self.write_place - self.destaged_place + self.head - self.committed

    @property
    def throttled(self) -> bool:
        """Lock held."""
        return self.dirty_pages > self.policy.high_pages

    def resize_ring(self, pages: int) -> None:
        """From now on the ring keeps so many of the newest LSNs: not less than volatile_pages, not more than it has
        slots. Lock held."""
        assert pages >= self.volatile_pages
        # What it does not keep now may be released, and does not come back when it grows.
        self.ring_start = self.ring_floor
        self.ring_pages = pages

    def refresh_limits(self) -> None:
        """To be called after anything moved. Lock held.

        Whatever is admitted to the ring has its space in the log: a commit never waits for destaging. A segment that
        does not fit before the end of the log leaves less than MAX_SEGMENT_PAGES unused there.
        """
        is_closed = self.quiesced or self.is_handing_over or not self.writable
        if is_closed or self.log_error or self.writes_ended or self.stopping:
            self.limit = self.soft_limit = 0
            return
        room = min(self.volatile_pages - self.carry_ring, self.room_in_log)
        self.limit = self.committed + max(room, 0)
        self.soft_limit = 0 if self.throttled else min(self.limit, self.committed + self.policy.commit_pages)

    def request_commit(self) -> None:
        """Lock held."""
        if not self.commit_requested:
            self.commit_requested = True
            self.commit_wanted.notify()

    @property
    def destager_must_stop(self) -> bool:
        """Lock held, or where one batch more or less does not matter."""
        return self.log_error is not None or (self.stopping and not self.draining)

    def stop(self, drain: bool) -> None:
        """Wake everybody: no request is admitted from now on. With drain the destager continues. Takes the lock."""
        with self.lock:
            self.draining = drain
            self.stopping = True
            self.refresh_limits()
            self.moved.notify_all()
            self.commit_wanted.notify_all()
            self.destage_wanted.notify_all()
            self.ring_wanted.notify_all()

    def open_next_segment(self) -> PendingSegment:
        """A segment with the next LSN for its descriptor. Lock held; there is room and no open segment."""
        segment, end, now = PendingSegment(self.head, self.policy.ack), self.head + 1, time.monotonic()
        # Whatever can fail for lack of memory comes first: these two belong together.
        self.open_segment, self.head = segment, end
        if not self.pending_since:
            self.pending_since = now
            if self.committer_idle:
                self.commit_wanted.notify()
        return segment

    def take_over(self, segments: list[PendingSegment]) -> None:
        """Continue after segments that another server had put into the ring and not committed. Before any thread
        runs."""
        self.closed_segments.extend(segments)
        self.head = segments[-1].end_lsn
        self.pending_since = time.monotonic()
        # They were acknowledged a while ago.
        self.commit_requested = True

    def close_segment(self) -> None:
        """Nothing is added to the open segment any more. Lock held."""
        if self.open_segment:
            self.closed_segments.append(self.open_segment)
            self.open_segment = None

    def note_destaged(self, lsn: int, place: int) -> None:
        """`destaged` moves to lsn, whose position is `place`. Lock held."""
        self.destaged = lsn
        self.destaged_place = place
        while self.timeline and self.timeline[0][0] <= lsn:
            self.timeline.popleft()
        if len(self.timeline) < _MOST_TIMES // 4:
            self._timeline_gap = max(self._timeline_gap / 2, _TIMELINE_GAP)
        while self.carried and self.carried[0][1] <= lsn:
            self.carried.popleft()
        self.refresh_limits()
        self.moved.notify_all()

    def note_committed(self, lsn: int, place: int) -> None:
        """`committed` moves to lsn, the end of the log to `place`. Lock held."""
        now = time.monotonic()
        self.committed = lsn
        self.write_place = place
        self.pending_since = now if self.head > lsn else 0.0
        if self.timeline and now - self.timeline[-1][1] < self._timeline_gap:
            self.timeline[-1] = lsn, self.timeline[-1][1]
        else:
            self.timeline.append((lsn, now))
            if len(self.timeline) > _MOST_TIMES:
                self._thin_out_timeline()
        self.refresh_limits()
        self.moved.notify_all()
        if self.head > self.ring_mark:
            self.ring_wanted.notify()

    def _thin_out_timeline(self) -> None:
        """Make one entry of every two, with the older time, and keep to that distance. Lock held."""
        self._timeline_gap *= 2
        entries = list(self.timeline)
        if len(entries) % 2:
            entries.append(entries[-1])
        self.timeline = deque((end, when) for (_, when), (end, _) in zip(entries[::2], entries[1::2], strict=True))

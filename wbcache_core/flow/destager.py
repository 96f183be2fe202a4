# SPDX-License-Identifier: BSD-3-Clause
"""Moves `destaged`: writes the log to the origin in strictly ordered batches, and reclaims log space.

Once the server is active, nothing else moves `destaged` and `oldest`, in memory or in the superblock. Within a batch
only the newest version of a block is written, sorted by block; `destaged` moves to the batch's end after the origin is
synced and a superblock says so.
"""

import logging
import threading
import time
from typing import Any

from wbcache_core.counters import Counters
from wbcache_core.errors import (
    DamagedPageError,
    DeviceError,
    OriginFailedError,
    StoppedError,
    SyncFailedError,
    WorkerLostError,
)
from wbcache_core.flow.admission import only_carried_below
from wbcache_core.flow.bad_blocks import BadBlocks
from wbcache_core.flow.batch_executor import BatchExecutor, Loaded, Written
from wbcache_core.flow.carrier import Carrier
from wbcache_core.flow.consumer import Consumer
from wbcache_core.flow.failure import fail
from wbcache_core.flow.region_notes import with_batch
from wbcache_core.flow.retention import Pin, Pins
from wbcache_core.flow.sweeper import Sweeper
from wbcache_core.flow.tags import Tags
from wbcache_core.flow.throttle import Throttle
from wbcache_core.format.changed_regions import ChangedRegions
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.block_map import LocationMap, entry_lsn
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.events import Events
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.pairing import fingerprint
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.threads import StartTogether
from wbcache_core.units import PAGE_SHIFT

_log = logging.getLogger("wbcache")

_FOREVER = float("inf")
_IDLE_SECONDS = 1.0
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.1, 10.0


class Destager:
    """All fields belong to its own thread, except `_retry_at`, `_turn`, `_drained_from`, `_forgiven` and `_has_ended`,
    which the volume lock guards."""

    def __init__(
        self,
        line: NumberLine,
        consumer: Consumer,
        locations: LocationMap,
        table: SegmentTable,
        covered: CoveredLog,
        pins: Pins,
        tags: Tags,
        store: SuperblockStore,
        executor: BatchExecutor,
        throttle: Throttle,
        bad: BadBlocks,
        carrier: Carrier,
        shipping: Shipping,
        counters: Counters,
        events: Events,
    ) -> None:
        self._line = line
        self._map = locations  # guarded by the volume lock
        self._table = table  # guarded by the volume lock
        self._covered = covered  # guarded by the volume lock
        self._pins = pins  # guarded by the volume lock
        self._tags = tags
        self._consumer = consumer
        self._store = store
        self._executor = executor
        self._throttle = throttle
        self._bad = bad  # guarded by the volume lock
        self._carrier = carrier
        self._shipping = shipping
        self._counters = counters
        self._events = events
        self._sweeper = Sweeper(line, locations)
        self._last_batch_at = 0.0
        self._superseded_below = 0
        self._idle_head, self._idle_since = 0, 0.0
        self._back_off, self._retry_at, self._reclaim_failed = 0.0, 0.0, False
        self._turn = 0
        """Number of the batch that is written now, or was written last."""
        self._drained_from = 0
        """The drain at the end began during this turn or after it."""
        self._forgiven: OriginFailedError | None = None
        """The failure that does not end the drain."""
        self._has_ended = False
        self._thread: threading.Thread | None = None  # only start() and join() use it

    def start(self, together: StartTogether) -> None:
        """The thread, as one of several. Raises NoThreadError."""
        self._thread = together.add("wbcache-destage", self._run)

    def join(self, patience: float | None = None) -> bool:
        """Wait for the thread, at most so many seconds, and return whether it has ended; the line has been stopped, or
        the log has failed. Does nothing if it was never started."""
        if not self._thread:
            return True
        self._thread.join(patience)
        return not self._thread.is_alive()

    def finish_drain(self) -> bool:
        """After line.stop(drain=True): wait until everything committed is on the origin; returns whether it is.

        Ends early if the origin fails, if cancel() is called, and at the first tag. No lock held.
        """
        line = self._line
        self._executor.be_patient()
        with line.lock:
            # Whatever failed earlier may work by now: the stop makes one more attempt. A batch that is under way is not
            # that attempt.
            self._drained_from = self._turn
            if not self._has_ended:
                line.origin_error = None
            self._retry_at = 0.0
            self._bad.retry_all()
            line.destage_wanted.notify()
            while line.destaged < (limit := self._pins.limit()) and not (line.destager_must_stop or self._has_ended):
                if self._bad and self._bad.seconds_until_due() > 0 and only_carried_below(line, limit):
                    break
                if line.origin_settles_at > time.monotonic():
                    # The batch is repeated after that: this failure does not end the drain, but the next one may.
                    self._forgiven = line.origin_error
                elif line.origin_error is not self._forgiven:
                    break
                line.moved.wait()
            line.draining = False
            line.destage_wanted.notify()
            return line.destaged >= line.committed

    def _began_before_drain(self) -> bool:
        """Whether the batch that is written now was under way when the drain at the end began. Lock held."""
        return self._line.draining and self._turn == self._drained_from

    def cancel(self) -> None:
        """End a drain. No lock held."""
        with self._line.lock:
            self._line.draining = False
            self._line.moved.notify_all()
            self._line.destage_wanted.notify()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            _log.exception("internal error in destaging, please report it")
            fail(self._line, OriginFailedError(f"internal error in destaging: {error!r}; restart the server"))
        finally:
            with self._line.lock:
                # Whoever waits for the end of a drain waits for this thread.
                self._has_ended = True
                self._line.moved.notify_all()
            self._executor.close()

    def _work(self) -> None:
        """Run until the stop. Raises only internal errors."""
        while True:
            with self._line.lock:
                end = self._wait_for_work()
            self._report_ended()
            if end is None:
                break
            try:
                if end > self._line.destaged:
                    self._destage(end)
                else:
                    self._executor.check_idle()
                self._reclaim()
                self._give_memory_back()
            except StoppedError:
                break
            except WorkerLostError as error:
                self._note_lost_worker(error)
            except (DamagedPageError, DeviceError) as error:
                self._executor.release()
                self._counters.destage_failures += 1
                if isinstance(error, DamagedPageError):
                    self._counters.checksum_failures += 1
                self._stall(error)

    def _wait_for_work(self) -> int | None:
        """The LSN up to which to destage; None to stop; the present `destaged` if there is only log space to reclaim or
        connections to check. Lock held."""
        line = self._line
        while not line.destager_must_stop:
            timeout = max(self._retry_at, line.origin_settles_at) - time.monotonic()
            if timeout <= 0:
                if line.destaged < line.committed:
                    limit = self._pins.limit()
                    timeout = self._seconds_until_due(limit)
                    if timeout <= 0:
                        end = self._consumer.end_of_next_batch(line.destaged, limit)
                        self._pins.pass_to(end)
                        self._turn += 1
                        return end
                if self._reclaim_wanted() or self._sweeper.is_wanted():
                    return line.destaged
            if not 0 < timeout < _FOREVER:
                line.destager_idle, timeout = True, _FOREVER
            pause = min(timeout, self._executor.check_seconds)
            was_notified = line.destage_wanted.wait(pause if pause < _FOREVER else None)
            line.destager_idle = False
            if not was_notified and pause < timeout:
                return line.destaged
        return None

    def _seconds_until_due(self, limit: int) -> float:
        """How long the dirty data below limit may still wait. Lock held."""
        line, now = self._line, time.monotonic()
        if limit <= line.destaged:
            return self._pins.seconds_until_more()
        if self._bad and only_carried_below(line, limit):
            return self._bad.seconds_until_due()
        # Data that is held back does not count.
        backlog = line.dirty_pages if limit == line.committed else limit - line.destaged
        if line.draining or line.is_origin_awaited or backlog > line.policy.low_pages:
            return 0.0
        if line.head != self._idle_head:
            self._idle_head, self._idle_since = line.head, now
        since = line.timeline[0][1] if line.timeline else now
        if limit < line.committed:
            # The history releases a little with every commit.
            since = max(since, self._last_batch_at)
        return min(since + line.policy.destage_delay, self._idle_since + _IDLE_SECONDS) - now

    def _is_batch_due(self) -> bool:
        """Lock held."""
        return self._line.destaged < self._line.committed and self._seconds_until_due(self._pins.limit()) <= 0

    def _destage(self, end: int) -> None:
        """Destage one batch. If it raises DeviceError or DamagedPageError, nothing has moved. Raises StoppedError
        and WorkerLostError too."""
        started = time.monotonic()
        line = self._line
        self._superseded_below = 0
        batch = self._load(end)
        batch_end = max(batch.end_lsn, self._superseded_below)
        regions = self._regions_after(batch)
        if self._store.current.batch_end < batch_end or regions:
            batch_end = max(batch_end, self._store.current.batch_end)
            self._write_superblock(regions=regions, batch_end=batch_end, committed=line.committed)
        self._shipping.wait_until_announced()
        written, carried_end, dropped = self._write_to_origin(batch)
        # A larger batch may have failed half-way before.
        batch_end = max(batch.end_lsn, self._store.current.batch_end, carried_end)
        generation, time_ns = self._consumer.last_whole_generation(batch, batch_end, self._store.current)
        self._write_superblock(
            destaged=batch.end_lsn,
            destaged_place=self._consumer.place_after(batch),
            destaged_previous=batch.last_checksum,
            destaged_generation=generation,
            destaged_time_ns=time_ns,
            batch_end=batch_end,
            committed=line.committed,
            samples=self._new_samples(written, dropped),
        )
        with line.lock:
            recovered, line.origin_error = line.origin_error, None
            line.note_destaged(batch.end_lsn, self._store.current.destaged_place)
            self._covered.records.drop_below(batch.end_lsn)
            self._bad.note_dropped(dropped)
        self._last_batch_at = time.monotonic()
        seconds = time.monotonic() - started
        self._throttle.note_destaged(batch.end_lsn - batch.start_lsn, seconds)
        self._counters.destaged_pages += batch.end_lsn - batch.start_lsn
        self._counters.origin_pages += written.pages
        self._counters.origin_requests += written.requests
        self._back_off = 0.0
        if recovered:
            _log.warning("destaging goes on")
        _log.debug(
            "destaged batch: LSN %d to %d, %d pages in %d writes, %.3f s",
            batch.start_lsn, batch.end_lsn, written.pages, written.requests, seconds,
        )  # fmt: skip

    def _regions_after(self, batch: Loaded) -> ChangedRegions | None:
        """The map of changed regions that has to be durable before the batch is written; None if it is, and on a shared
        origin. Raises DeviceError."""
        superblock, line = self._store.current, self._line
        if not superblock.has_own_origins:
            return None
        known, everywhere = self._store.regions(), self._shipping.peers.everywhere()
        with line.lock:
            records = self._covered.records.between(line.destaged, batch.end_lsn)
        regions = with_batch(known, superblock, records, batch.end_lsn, everywhere)
        return None if regions == known else regions

    def _write_to_origin(self, batch: Loaded) -> tuple[Written, int, list[int]]:
        """Write the batch, except what the origin rejects, which is carried forward.

        Also returns the LSN below which no moment can be opened any more because of that, and the blocks that are given
        up. Raises DeviceError, StoppedError.
        """
        with self._line.lock:
            bad = self._bad.postponed()
        postponed, watched = ([block for block in bad if bad[block] == is_postponed] for is_postponed in (True, False))
        written = self._executor.write(postponed, watched, self._line.policy.destage_depth)
        with self._line.lock:
            messages = self._bad.note(written.tried, written.refused)
            if self._began_before_drain():
                self._bad.retry_all()
        for message in messages:
            _log.error("%s", message)
        if not written.contents:
            return written, batch.end_lsn, []
        return written, *self._carrier.carry(written.contents, batch.end_lsn)

    def _new_samples(self, written: Written, dropped: list[int]) -> tuple[int, ...]:
        """The samples of the origin after the batch. Raises DeviceError."""

        def checksum(block: int) -> int | None:
            # Only the origin knows the content of a block that was given up.
            return self._executor.sample(block) if block in dropped else written.sample_sums.get(block)

        return fingerprint.updated(self._executor.origin_bytes, self._store.current.samples, checksum)

    def _load(self, end: int) -> Loaded:
        """The batch from `destaged` on. Raises DamagedPageError, DeviceError."""
        try:
            return self._consumer.load(self._line.destaged, end, self._is_superseded)
        except DamagedPageError as error:
            if error.block is None:
                raise
            raise DamagedPageError(
                f"{error} and is not written to the origin; {self._what_helps(error.block, error.lsn)}", error.lsn
            ) from None

    def _what_helps(self, block: int, lsn: int) -> str:
        """What the user can do about a damaged page that cannot be skipped."""
        with self._line.lock:
            is_anew = lsn < entry_lsn(self._map.get(block)) < self._line.committed
        if is_anew:
            return "its block was written again, but a snapshot or tag needs the old version: close or remove it"
        return f"write the 4096 bytes of the volume at {block << PAGE_SHIFT} again, from a backup"

    def _is_superseded(self, block: int, lsn: int) -> bool:
        """Whether the log has a later version of a block, and nobody needs the earlier one.

        Reads of the volume then never go to the origin before the later version is there, neither now nor after a
        crash. No moment before that version can be opened any more: `batch_end` says so until `destaged` has passed it.
        """
        line = self._line
        with line.lock:
            later = entry_lsn(self._map.get(block))
            end = self._table.first_after(later) or line.committed
            if not lsn < later < line.committed or end > line.peers_committed:
                return False
            if not self._pins.may_pass(end):
                return False
            self._pins.pass_to(end)
            self._superseded_below = max(self._superseded_below, end)
            return True

    def _reclaim_wanted(self) -> bool:
        """Lock held."""
        line = self._line
        enough = line.data_pages // (2 if line.room_waiters else 4)
        free_pages = line.data_pages - (line.write_place - line.reclaimed_place)
        return line.reclaimed_place < line.destaged_place and free_pages < enough

    def _reclaim(self) -> None:
        """Give up the oldest clean segments until half of the log is free, in both superblocks.

        Raises StoppedError, and DeviceError, then their space is not free yet.
        """
        line = self._line
        with line.lock:
            if not self._reclaim_wanted():
                return
            kept = self._table.first_from_place(line.write_place - line.data_pages // 2)
            # The segment that is needed may begin a lap, while its position is still before the unused pages of the
            # previous lap.
            needed, needed_place = line.needed_from()
            if kept and line.oldest <= kept.first_lsn < needed:
                oldest, place = kept.first_lsn, kept.place
            else:
                oldest, place = needed, needed_place
            # Readers stop using the segments before their space can be overwritten.
            line.oldest = oldest
            self._table.drop_below(oldest)
        had_failed, self._reclaim_failed = self._reclaim_failed, True
        for _ in range(2):
            self._write_superblock(oldest=oldest, oldest_place=place, committed=line.committed)
        self._reclaim_failed = False
        with line.lock:
            if had_failed:
                line.origin_error = None
            line.reclaimed_place = self._store.reclaimed_place
            line.refresh_limits()
            line.moved.notify_all()
        self._sweeper.sweep()

    def _give_memory_back(self) -> None:
        """Unless the next batch is due: what the last one took, and what the map need not know. No lock held."""
        with self._line.lock:
            if self._is_batch_due():
                return
        self._executor.release()
        self._sweeper.sweep_while_idle(self._is_batch_due)

    def _report_ended(self) -> None:
        """Report snapshots and tags that a batch is going to pass. No lock held."""
        with self._line.lock:
            ended = self._pins.take_ended()
        for one in ended:
            if isinstance(one, Pin):
                _log.warning("the snapshot of generation %d has ended: the origin moves on", one.generation.number)
                self._events.note("snapshot-ended", generation=one.generation.number)
            else:
                _log.warning(
                    "the tag '%s' (generation %d) is removed: the origin moves on", one.name, one.generation
                )  # fmt: skip
                self._events.note("tag-ended", tag=one.name, generation=one.generation)

    def _write_superblock(self, **changes: Any) -> None:
        """Raises DeviceError, then nothing may move for now; after a failed sync StoppedError: never again."""
        try:
            self._tags.write(**changes)
        except SyncFailedError:
            raise StoppedError("the log device failed") from None

    def _note_lost_worker(self, error: WorkerLostError) -> None:
        """The batch is repeated: at once if none of its requests can be carried out any more."""
        settles_at = self._executor.settles_at
        with self._line.lock:
            self._line.origin_settles_at = settles_at
        seconds = settles_at - time.monotonic()
        when = f" in {seconds:.0f} s, when its requests have been carried out or never will be" if seconds > 0 else ""
        _log.warning("%s; the batch is repeated%s", error, when)

    def _stall(self, error: DamagedPageError | DeviceError) -> None:
        """Latch and report why destaging is stalled, and try again later."""
        self._back_off = min(max(2 * self._back_off, _FIRST_BACK_OFF), _LONGEST_BACK_OFF)
        message = f"destaging is stalled: {error}; it is retried, and writes go on until the log is full"
        known = self._line.origin_error
        if known is None or str(known) != message:
            _log.error("%s", message)
        failure = OriginFailedError(message, error.errno_value)
        with self._line.lock:
            self._retry_at = time.monotonic() + self._back_off
            self._line.origin_settles_at = self._executor.settles_at
            if self._began_before_drain():
                self._retry_at, self._forgiven = 0.0, failure
        fail(self._line, failure)

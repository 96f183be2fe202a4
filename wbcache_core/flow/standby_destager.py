# SPDX-License-Identifier: BSD-3-Clause
"""Brings the log of a standby to the origin that this node has of its own, and fills that origin.

As the destager of an owner does it, but no further than what every log has that
counts (`safe`): what an owner to come may lack is never on an origin. What the
owner copies of its volume goes to the origin between batches; it counts when
this node has destaged everything that the owner had when it read it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device
from wbcache_core.errors import DamagedPageError, DeviceError, RequestError, ShipmentError, StoppedError
from wbcache_core.flow.batch_executor import DirectExecutor, Loaded, Written, batch_lsns
from wbcache_core.flow.consumer import Consumer
from wbcache_core.flow.origin_writer import OriginWriter
from wbcache_core.flow.region_notes import with_batch
from wbcache_core.flow.standby_retention import StandbyRetention
from wbcache_core.format.epoch import Epoch
from wbcache_core.format.fill_piece import FillPiece
from wbcache_core.format.superblock import NO_FILL, Fill, Superblock
from wbcache_core.log.hot_log import HotLog
from wbcache_core.log.log_copy import LogCopy
from wbcache_core.log.reader import LogReader
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.pairing import fingerprint
from wbcache_core.threads import InternalErrors, StartTogether
from wbcache_core.units import MIB, PAGE_SHIFT, pages_of

_log = logging.getLogger("wbcache")

_IDLE_SECONDS = 1.0
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.1, 10.0
_REACH_BLOCKS = 64 * MIB >> PAGE_SHIFT
"""A superblock says so far ahead that something is going to be copied."""


class _Filling(NamedTuple):
    """What was copied in another one, and does not count, is copied again: the owner may have lost what it had then, or
    the log has begun anew without what the copy waits for."""

    epoch: Epoch
    beginning: int


class _Copied(NamedTuple):
    """What had been copied at a moment."""

    filling: _Filling
    fill: Fill
    steps: tuple[tuple[int, int], ...]
    """(blocks, LSN), ascending: so many count when everything below has been destaged."""


def _knows_epoch(superblock: Superblock) -> bool:
    """Whether the history says where the present epoch began."""
    return any(switch.epoch == superblock.epoch for switch in superblock.history)


class StandbyDestager:
    """`_origin_lock` guards the origin and what is known of its filling; the log's lock may be taken while it is held,
    not the other way round. The other fields are the thread's, except `error`, which others may read."""

    def __init__(
        self, log: StandbyLog, device: Device, origin: Device, retention: StandbyRetention,
        mark: Callable[[bytes], object],
    ) -> None:  # fmt: skip
        """mark() is given the volume's UUID before the origin is written."""
        self._mark = mark
        self._marked = b""
        """For which volume; `_origin_lock` guards it."""
        self._log = log
        self._device = device
        self._origin = origin
        self._retention = retention  # guarded by the log's lock
        self._origin_lock = threading.Lock()
        self._filled = NO_FILL
        self._filled_in: _Filling | None = None
        """In which filling that was copied; what the superblock says counts in another one."""
        self.reach_blocks = _REACH_BLOCKS
        self._copied_before = 0
        """Before that filling, or by an earlier process, something may have been copied below this block."""
        self._steps: deque[tuple[int, int]] = deque()
        """As in _Copied; of those that count only the last."""
        self._later: dict[int, int] = {}
        """Pieces beyond `_filled`: the first block, and the one after the last."""
        self._is_closed = False
        """Nothing is written any more; `_origin_lock` guards it."""
        self._stopping = threading.Event()
        self._executor: DirectExecutor | None = None
        self._log_made_for = b"", 0
        self._back_off = 0.0
        self.error = ""
        """Why destaging is stalled; empty if it is not."""
        self._errors = InternalErrors("destaging of a standby")
        self._thread: threading.Thread | None = None  # only start() and stop() use it

    @property
    def filled(self) -> int:
        """Blocks that have been copied; a moment ago."""
        return self._filled.filled

    def start(self) -> None:
        """The thread. Raises NoThreadError."""
        together = StartTogether()
        try:
            self._thread = together.add("wbcache-destage", self._run)
        except BaseException:
            together.give_up()
            raise
        together.run()

    def stop(self) -> None:
        """End the thread: a batch that is on its way ends early. Nothing is written to the origin afterwards.
        Idempotent."""
        self._stopping.set()
        with self._log.lock:
            self._log.destage_wanted.notify_all()
        if self._thread:
            self._thread.join()
            self._thread = None
        with self._origin_lock:
            self._is_closed = True

    def _run(self) -> None:
        superblock = self._log.superblock
        if superblock and superblock.batch_end > superblock.destaged:
            # The process before was killed in the middle of a batch.
            self._origin.suspect_requests(time.monotonic())
        while not self._stopping.is_set():
            try:
                self._work()
                self._back_off, self.error = 0.0, ""
                self._tell_failing(False)
            except StoppedError:
                break
            except (DamagedPageError, DeviceError, RequestError) as error:
                self._stall(str(error))
            except Exception as error:
                self._errors.note(error)
                self._stall(f"internal error: {error!r}")
        if self._executor:
            self._executor.close()

    def _stall(self, why: str) -> None:
        if why != self.error:
            _log.error("destaging of this standby is stalled: %s; it is retried", why)
        self.error = why
        self._tell_failing(True)
        self._back_off = min(max(2 * self._back_off, _FIRST_BACK_OFF), _LONGEST_BACK_OFF)
        self._stopping.wait(self._back_off)

    def _tell_failing(self, is_failing: bool) -> None:
        with self._log.lock:
            self._log.is_failing = is_failing

    def _work(self) -> None:
        """One batch, or what was copied meanwhile, when it is due. Raises StoppedError, DamagedPageError, DeviceError,
        RequestError."""
        started = time.monotonic()
        with self._log.lock:
            while not self._stopping.is_set():
                self._log.check_usable()
                self.reclaim()
                end, is_large = self._end_of_next_batch()
                waited = time.monotonic() - started
                if end and (is_large or waited >= _IDLE_SECONDS):
                    break
                if not end and waited >= _IDLE_SECONDS and self._has_news():
                    break
                idle = not end and not self._has_news()
                self._log.destage_wanted.wait(self._idle_seconds() if idle else max(_IDLE_SECONDS - waited, 0.01))
                if idle:
                    started = time.monotonic()
            else:
                raise StoppedError("the server is shutting down")
        if end:
            self._destage()
        else:
            self._note_filled()

    def _idle_seconds(self) -> float | None:
        """How long to wait if nothing comes, None for ever. Log lock held."""
        seconds = self._retention.seconds_until_more()
        return None if seconds == float("inf") else seconds

    def _end_of_next_batch(self) -> tuple[int, bool]:
        """Where it ends, 0 if there is none, and whether there is no more room in it. Log lock held."""
        copy = self._log.copy
        superblock = copy.superblock
        if superblock is None or copy.hot is None:
            return 0, False
        start, most = superblock.destaged, batch_lsns(superblock.data_pages)
        limit = self._retention.limit(superblock, copy.hot)
        if limit <= start:
            return 0, False
        if limit - start <= most:
            return limit, self._is_short_of_room(copy, superblock)
        return copy.hot.table.first_lsns_between(start + 1, start + most + 1)[-1], True

    def _is_short_of_room(self, copy: LogCopy, superblock: Superblock) -> bool:
        """Log lock held."""
        return copy.end_place - superblock.destaged_place > superblock.data_pages // 4

    def _destage(self) -> None:
        """The next batch, if there is one. Raises what _work() does; then nothing has moved."""
        log = self._log
        with log.lock:
            log.check_usable()
            copy = log.copy
            superblock, hot = copy.superblock, copy.hot
            # The log may have begun anew since somebody looked.
            end, _ = self._end_of_next_batch()
            if superblock is None or hot is None or not end:
                return
            copy.is_destaging = True
            filling = self._present(superblock)
            try:
                self._retention.pass_to(end)
                self._announce(copy, superblock, hot, end)
            except BaseException:
                copy.is_destaging = False
                raise
        try:
            executor = self._executor_for(superblock)
            consumer = Consumer(self._retention.line, hot.table, self._reader, executor)
            batch = consumer.load(superblock.destaged, end, lambda _block, _lsn: False)
            with self._origin_lock:
                self._mark_for(superblock)
                copied = self._copied(filling, superblock.fill)
                written = self._write(executor)
            changes = self._changes(batch, consumer, written, superblock)
            self._note(copy, changes, copied)
            executor.release()
            with log.lock:
                self._retention.tell_ended()
        finally:
            with log.lock:
                copy.is_destaging = False

    def _announce(self, copy: LogCopy, superblock: Superblock, hot: HotLog, end: int) -> None:
        """Say that the origin is about to get what is below `end`, and which regions that changes. Log lock held.
        Raises DeviceError."""
        known = copy.regions()
        records = hot.covered.records.between(superblock.destaged, end)
        regions = with_batch(known, superblock, records, end, self._log.everywhere)
        if superblock.batch_end < end or regions != known:
            batch_end = max(superblock.batch_end, end)
            tags = tuple(tag for tag in superblock.tags if tag.end_lsn >= batch_end)
            copy.change(regions=regions, batch_end=batch_end, committed=max(superblock.committed, end), tags=tags)

    def _executor_for(self, superblock: Superblock) -> DirectExecutor:
        made_for = superblock.uuid, superblock.data_pages
        if self._executor is None or self._log_made_for != made_for:
            if self._executor:
                self._executor.close()
            self._reader = LogReader(self._device, superblock.data_pages, superblock.uuid)
            writer = OriginWriter(self._origin, self._stopping.is_set)
            self._executor = DirectExecutor(self._reader, superblock.data_pages, writer)
            self._log_made_for = made_for
        return self._executor

    def _write(self, executor: DirectExecutor) -> Written:
        """`_origin_lock` held. Raises DeviceError, StoppedError."""
        written = executor.write([], [], self._retention.line.policy.destage_depth)
        for block, error in written.refused.items():
            raise DeviceError(
                f"origin '{self._origin.name}' rejects the block at byte {block << PAGE_SHIFT}: {error}; replace the "
                "disk, and start this standby with force=discard-log: it is filled again"
            )
        return written

    def _changes(
        self, batch: Loaded, consumer: Consumer, written: Written, superblock: Superblock
    ) -> dict[str, Any]:  # fmt: skip
        """What a superblock says after the batch. Raises DeviceError."""
        batch_end = max(batch.end_lsn, superblock.batch_end)
        generation, time_ns = consumer.last_whole_generation(batch, batch_end, superblock)
        samples = fingerprint.updated(self._origin.size, superblock.samples, written.sample_sums.get)
        return {
            "destaged": batch.end_lsn, "destaged_place": consumer.place_after(batch),
            "destaged_previous": batch.last_checksum, "destaged_generation": generation, "destaged_time_ns": time_ns,
            "samples": samples,
        }  # fmt: skip

    def _note(self, copy: LogCopy, changes: dict[str, Any], copied: _Copied) -> None:
        """A batch is on the origin, durably, with what had been copied before. Raises what _work() does."""
        log = self._log
        with log.lock:
            log.check_usable()
            if log.copy is not copy:
                raise DeviceError("the log of this standby has been read again meanwhile")
            current = copy.superblock
            assert current
            if self._present(current) != copied.filling:
                copied = _Copied(copied.filling, current.fill, ())
            changes |= self._fill_changes(current, changes.get("destaged", current.destaged), copied)
            # The origin counts as consistent, or not, whichever superblock is lost.
            copy.change(twice="is_inconsistent" in changes, **changes)
            self.reclaim()
        if changes.get("is_inconsistent") is False:
            _log.warning("origin '%s' has been filled: from now on it and the log are the volume", self._origin.name)

    def _fill_changes(self, current: Superblock, destaged: int, copied: _Copied) -> dict[str, Any]:
        """Log lock held. Raises DeviceError."""
        if not current.is_inconsistent:
            return {}
        fill = copied.fill
        counted = [blocks for blocks, lsn in copied.steps if lsn <= destaged]
        if destaged >= fill.lsn:
            counted.append(fill.filled)
        # Where it began, and how far anything was copied, the superblock knows best.
        fill = current.fill._replace(
            filled=fill.filled, lsn=fill.lsn, counted=max(current.fill.counted, *counted, 0)
        )
        # Before the history says where the owner's epoch began, what an earlier log has left in its place could be
        # taken for a part of this one (see recovery.py).
        if fill.counted < pages_of(current.origin_bytes) or not _knows_epoch(current):
            return {"fill": fill}
        return {"fill": NO_FILL, "is_inconsistent": False, "samples": fingerprint.take(self._origin)}

    def reclaim(self) -> None:
        """Give up the oldest segments until half of the log is free, if less than a quarter is. Log lock held. Raises
        DeviceError."""
        copy = self._log.copy
        current, hot = copy.superblock, copy.hot
        if current is None or hot is None or not copy.is_short_of_room:
            return
        pages = current.data_pages
        kept = hot.table.first_from_place(copy.end_place - pages // 2)
        oldest, place = current.destaged, current.destaged_place
        if kept and current.oldest <= kept.first_lsn < oldest:
            oldest, place = kept.first_lsn, kept.place
        if oldest > current.oldest:
            copy.change(twice=True, oldest=oldest, oldest_place=place)

    def _mark_for(self, superblock: Superblock) -> None:
        """`_origin_lock` held."""
        if self._marked != superblock.uuid:
            self._mark(superblock.uuid)
            self._marked = superblock.uuid

    def _copied(self, filling: _Filling, noted: Fill) -> _Copied:
        """What has been copied in that filling, of which a superblock says `noted`. `_origin_lock` held."""
        if self._filled_in != filling:
            # The first piece has not come yet, or another filling has begun since, which is not to be touched.
            return _Copied(filling, noted, ())
        return _Copied(filling, self._filled, tuple(self._steps))

    def _go_on_with(self, superblock: Superblock, filling: _Filling) -> None:
        """A piece has come in that filling, which is the present one; that superblock is the newest. Nothing that was
        copied in an earlier one counts that does not count yet. `_origin_lock` held."""
        if self._filled_in != filling:
            self._filled, self._filled_in = superblock.fill, filling
            self._copied_before = superblock.fill.reach
            self._later.clear()
            self._steps.clear()
        while len(self._steps) > 1 and self._steps[1][1] <= superblock.destaged:
            self._steps.popleft()

    def _present(self, superblock: Superblock) -> _Filling:
        """Of that superblock, which is the newest. Log lock held."""
        copy = self._log.copy
        return _Filling(superblock.epoch, copy.beginning)

    def _has_news(self) -> bool:
        """Whether something has been copied that no superblock says yet. A moment ago."""
        superblock = self._log.superblock
        if superblock is None or not superblock.is_inconsistent:
            return False
        if superblock.fill.counted == pages_of(superblock.origin_bytes):
            return _knows_epoch(superblock)
        if self._filled_in != self._present(superblock):
            return False
        counts = superblock.destaged >= self._filled.lsn and superblock.fill.counted < self._filled.filled
        return self._filled.filled > superblock.fill.filled or counts

    def _note_filled(self) -> None:
        """Make durable what was copied, between batches. Raises what _work() does."""
        with self._log.lock:
            self._log.check_usable()
            copy = self._log.copy
            superblock = copy.superblock
            assert superblock
            filling = self._present(superblock)
        with self._origin_lock:
            copied = self._copied(filling, superblock.fill)
            self._origin.sync()
        self._note(copy, {}, copied)

    def take_piece(self, piece: FillPiece, data: memoryview) -> None:
        """Write blocks that the owner has read. Raises ShipmentError, DeviceError, StoppedError."""
        if len(data) != piece.data_bytes:
            raise ShipmentError(f"{piece.block_count} blocks were announced, and {len(data)} bytes sent")
        if data and xxh3_64_intdigest(data) != piece.data_sum:
            raise ShipmentError("a piece of the volume fails its checksum")
        with self._origin_lock:
            superblock, filling = self._check_piece(piece)
            self._go_on_with(superblock, filling)
            # What has been copied may count as of an earlier LSN, and must not become newer.
            first, end = max(piece.block, self._filled.filled), piece.block + piece.block_count
            if first >= end:
                return
            if piece.is_unchanged:
                self._check_unchanged(piece, superblock.fill)
                self._enter(first, end, piece.end_lsn)
                return
            self._mark_for(superblock)
            self._extend_reach(end, filling)
            offset = first << PAGE_SHIFT
            length = min(end << PAGE_SHIFT, self._origin.size) - offset
            if piece.is_zero:
                self._origin.zero(offset, length, may_trim=True)
            else:
                at = first - piece.block << PAGE_SHIFT
                self._origin.write([data[at : at + length]], offset)
            self._enter(first, end, piece.end_lsn)

    def _check_unchanged(self, piece: FillPiece, fill: Fill) -> None:
        """Whether what the origin has there is right: it was the volume before those LSNs, the log that is destaged
        here has what followed them, and nothing was copied there in an earlier filling. `_origin_lock` held. Raises
        ShipmentError."""
        if not fill.lacks_only(piece.first_lsn, piece.end_lsn):
            raise ShipmentError(
                f"blocks were called unchanged from LSN {piece.first_lsn} to {piece.end_lsn}, and this origin lacks "
                f"what is between {fill.base} and {fill.begin}"
            )
        if piece.block < self._copied_before:
            raise ShipmentError("blocks were called unchanged that had been copied in an earlier filling")

    def _extend_reach(self, end: int, filling: _Filling) -> None:
        """Let a superblock say, before it is done, that blocks below `end` are written over. `_origin_lock` held.
        Raises ShipmentError, DeviceError."""
        with self._log.lock:
            self._log.check_usable()
            copy = self._log.copy
            current = copy.superblock
            if current is None or self._present(current) != filling:
                raise ShipmentError("a piece of the volume has come too late")
            fill = current.fill
            if fill.base and end > fill.reach:
                blocks = pages_of(current.origin_bytes)
                copy.change(twice=True, fill=fill._replace(reach=min(end + self.reach_blocks, blocks)))

    def _check_piece(self, piece: FillPiece) -> tuple[Superblock, _Filling]:
        """Whether it may be written now; returns the newest superblock, and what is being filled. `_origin_lock` held.
        Raises ShipmentError, RequestError, DeviceError."""
        if self._is_closed:
            raise StoppedError("the server is shutting down")
        with self._log.lock:
            self._log.check_usable()
            superblock = self._log.superblock
            filling = self._present(superblock) if superblock else None
        if superblock is None or filling is None or not superblock.is_inconsistent:
            raise ShipmentError("a piece of the volume was sent, and this origin is not being filled")
        if (piece.uuid, piece.epoch) != (superblock.uuid, superblock.epoch):
            raise ShipmentError("a piece of another volume or epoch was sent")
        if piece.block + piece.block_count > pages_of(superblock.origin_bytes):
            raise ShipmentError("a piece was sent that is beyond the end of the volume")
        if piece.first_lsn < superblock.batch_end and not piece.is_unchanged:
            end = superblock.batch_end
            raise ShipmentError(
                f"a piece of the volume as of LSN {piece.first_lsn} was sent, and the origin is at {end}"
            )
        return superblock, filling

    def _enter(self, first: int, end: int, end_lsn: int) -> None:
        """These blocks have been written, as they were at that LSN at the latest. `_origin_lock` held."""
        fill = self._filled
        self._later[first] = max(end, self._later.get(first, 0))
        filled = fill.filled
        for start in sorted(self._later):
            if start > filled:
                break
            filled = max(filled, self._later.pop(start))
        # What lies beyond a gap is not copied again unless this process ends.
        lsn = max(fill.lsn, end_lsn)
        if filled > fill.filled:
            self._steps.append((filled, lsn))
        self._filled = fill._replace(filled=filled, lsn=lsn)
        with self._log.lock:
            self._log.destage_wanted.notify_all()

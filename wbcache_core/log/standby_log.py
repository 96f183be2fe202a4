# SPDX-License-Identifier: BSD-3-Clause
"""The log of a standby: takes whole segments and superblocks from the owner, and keeps the rules of a log itself.

The owner is believed in what it says about its own log, and in nothing that
this one can check: the volume, the epoch, the chain of checksums, every page,
the position, and that nothing is written over that the two superblocks of this
log need. Descriptors and superblocks say what was committed at the owner; so a
generation is synced before the next one is written, and everything before a
superblock. docs/peers-model.md says what goes wrong otherwise.
"""

import logging
import threading
import time

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import DeviceError, FormatError, NotOwnerError, ShipmentError, StoppedError
from wbcache_core.format import standby_state
from wbcache_core.format.epoch import NO_EPOCH, Epoch
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock, decode
from wbcache_core.log.epochs import EpochOrder
from wbcache_core.log.geometry import LogEnd, fit, offset_of
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import recover
from wbcache_core.log.shipment import segment_in
from wbcache_core.log.superblocks import SuperblockStore, newest
from wbcache_core.log.takeover import FoundData, bury, bury_discarded, take_over
from wbcache_core.memory.segment_table import SegmentTable
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

_log = logging.getLogger("wbcache")

TURN_SECONDS = 30.0
"""How long a segment waits for the one before it, which was sent before it."""
_SHIPPED = (
    "origin_bytes", "origin_name", "samples", "destaged", "destaged_place", "destaged_previous", "destaged_generation",
    "destaged_time_ns", "batch_end", "committed", "tags", "origin_facts", "epoch", "history",
)  # fmt: skip
"""What a superblock has from the owner. The rest is this log's own."""


def recovered_log(device: Device, slots: list[Superblock | None] | None) -> "StandbyLog":
    """What the device has; `slots` are its superblocks, None for a blank one. Writes nothing. Raises DamagedLogError,
    LogVersionError, DeviceError."""
    superblock = newest(slots) if slots else None
    if slots is None or superblock is None:
        return StandbyLog(device, None, SegmentTable(), 0, LogEnd(0, 0, 0, Reading(0)))
    found = recover(device, LogReader(device, superblock.data_pages, superblock.uuid), superblock)
    last = found.last.descriptor.epoch if found.last else NO_EPOCH
    return StandbyLog(device, slots, found.table, found.head, found.end, last)


class Sender:
    """A connection of somebody who sends. StandbyLog's lock guards the fields."""

    def __init__(self) -> None:
        self.has_joined = False
        """It has sent a superblock that was taken."""
        self.refusal = ""
        """Why nothing of it is taken any more."""


class StandbyLog:
    """`_lock` guards every field, and is held across I/O: all writes of this log come one after another."""

    def __init__(
        self, device: Device, slots: list[Superblock | None] | None, table: SegmentTable, head: int, end: LogEnd,
        last_epoch: Epoch = NO_EPOCH,
    ) -> None:  # fmt: skip
        """A log that was recovered up to `head`, or a blank one, without slots."""
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        """Notified when a segment was taken, or a sender is refused, or the server stops."""
        self._device = device
        self._store = SuperblockStore(device, slots) if slots else None
        self._table = table
        self._head, self._end = head, end
        self._last_epoch = last_epoch
        """Of the last segment."""
        self._synced = head
        """Everything below is durable."""
        self._order = EpochOrder(self._store.current) if self._store else None
        self._sender: Sender | None = None
        self._stopping = False
        self._scratch = aligned_buffer(MAX_SEGMENT_PAGES << PAGE_SHIFT)
        self.last_sign = 0.0
        """When the owner last asked for anything, in seconds of time.monotonic()."""
        self.refused, self.last_refusal = 0, ""

    def prepare(self) -> None:
        """Make durable what recovery found, and what it left out unreadable. Raises DeviceError; then it may be called
        again."""
        with self._lock:
            store = self._store
            if store is None:
                return
            current = store.current
            take_over(
                self._device, store, FoundData(), self._end.place,
                oldest=current.destaged, oldest_place=current.destaged_place, is_copy=True,
            )  # fmt: skip

    @property
    def superblock(self) -> Superblock | None:
        """The newest, None for a blank log. May be read without the lock."""
        return self._store.current if self._store else None

    @property
    def cursors(self) -> tuple[int, int]:
        """(received, committed) LSNs. May be read without the lock: each is true, or was a moment ago."""
        return self._head, self._synced

    def stop(self) -> None:
        """Send everybody away who waits. Whatever was answered as durable is."""
        with self._lock:
            self._stopping = True
            self._moved.notify_all()

    def state(self, sender: Sender) -> bytes:
        """The state page. From now on only this sender is heard. Raises DeviceError."""
        with self._lock:
            self._check_running()
            before, self._sender = self._sender, sender
            if before and before is not sender:
                before.refusal = "another connection has taken its place"
                self._moved.notify_all()
            sender.has_joined, sender.refusal = False, ""
            self.last_sign = time.monotonic()
            self._sync()
            return standby_state.encode(self._state())

    def _state(self) -> StandbyState:
        """Lock held."""
        room = self._device.size - self._device.size % PAGE_BYTES
        if self._store is None:
            return standby_state.blank(room)
        current = self._store.current
        lowest = min((slot for slot in self._store.slots if slot), key=lambda slot: slot.oldest)
        return StandbyState(
            current.uuid, room, current.log_bytes, current.origin_bytes, self._head, self._end.place,
            self._end.previous, lowest.oldest, self._store.reclaimed_place, current.destaged, current.batch_end,
            current.epoch, current.history,
        )  # fmt: skip

    def take_segment(self, sender: Sender, data: memoryview, offset: int, is_durable: bool) -> None:
        """Write a whole segment at its place, after those before it. With is_durable it and they are committed.

        Raises ShipmentError, NotOwnerError, DeviceError: from then on nothing of this sender is taken.
        """
        descriptor: Descriptor | None = None
        failure: Exception | None = None
        superblock = self.superblock
        if superblock:
            # Not under the lock: this is most of the work.
            try:
                descriptor = segment_in(data, superblock.uuid)
            except ShipmentError as error:
                failure = error
        with self._lock:
            self._check_sender(sender)
            try:
                if failure:
                    raise failure
                if descriptor is None or self._store is None or not sender.has_joined:
                    raise ShipmentError("a segment was sent before a superblock")
                self._wait_for_turn(sender, descriptor)
                self._take(descriptor, data, offset)
                if is_durable:
                    self._sync()
            except (ShipmentError, DeviceError) as error:
                self._refuse(sender, str(error))
                raise
            self.last_sign = time.monotonic()
            self._moved.notify_all()

    def _wait_for_turn(self, sender: Sender, descriptor: Descriptor) -> None:
        """Return when everything before that segment is here. Lock held; released while waiting."""
        until = time.monotonic() + TURN_SECONDS
        while self._head < descriptor.first_lsn:
            left = until - time.monotonic()
            if left <= 0:
                raise ShipmentError(f"the segment at LSN {descriptor.first_lsn} came without those from {self._head}")
            self._moved.wait(left)
            self._check_sender(sender)

    def _take(self, descriptor: Descriptor, data: memoryview, offset: int) -> None:
        """Lock held. Raises ShipmentError, DeviceError: then nothing has changed."""
        store, order, first, pages = self._store, self._order, descriptor.first_lsn, descriptor.log_pages
        assert store and order
        data_pages = store.current.data_pages
        place = fit(self._end.place, pages, data_pages)
        if first != self._head or descriptor.previous != self._end.previous:
            raise ShipmentError(f"the segment at LSN {first} does not follow the log here, which ends at {self._head}")
        if offset != offset_of(place, data_pages):
            raise ShipmentError(f"the segment at LSN {first} was sent to byte {offset}, which is not its place")
        if place + pages > store.reclaimed_place + data_pages:
            raise ShipmentError(f"the segment at LSN {first} would overwrite what the superblocks here still need")
        if max(descriptor.page_blocks, default=0) >= pages_of(store.current.origin_bytes):
            raise ShipmentError(f"the segment at LSN {first} has blocks beyond the end of the volume")
        if not order.admits(first, descriptor.previous, descriptor.epoch):
            raise ShipmentError(
                f"the segment at LSN {first} is of epoch {descriptor.epoch}, which the superblock here does not allow"
            )
        if descriptor.generation != self._end.generation:
            self._sync()
        view = self._scratch[: len(data)]
        view[:] = data
        self._device.write([view], offset)
        self._table.append(first, place, descriptor.encoding, descriptor.page_sums)
        self._head, self._last_epoch = descriptor.end_lsn, descriptor.epoch
        self._end = LogEnd(place + pages, descriptor.checksum, descriptor.generation, descriptor.reading)

    def take_superblock(self, sender: Sender, page: memoryview) -> None:
        """Make a superblock of the owner's durable. Raises ShipmentError, NotOwnerError, DeviceError: from then on
        nothing of this sender is taken."""
        with self._lock:
            self._check_sender(sender)
            try:
                try:
                    sent = decode(page)
                except FormatError as error:
                    raise ShipmentError(f"what was sent is no superblock: {error}") from None
                self._note(sent)
            except (ShipmentError, NotOwnerError, DeviceError) as error:
                self._refuse(sender, str(error))
                raise
            sender.has_joined = True
            self.last_sign = time.monotonic()

    def _note(self, sent: Superblock) -> None:
        """Lock held. Raises ShipmentError, NotOwnerError, DeviceError."""
        self._check_geometry(sent)
        if self._store is None:
            self._begin(sent)
            return
        self._check_epoch(sent, self._store.current)
        cut = self._cut(sent)
        end = cut[0] if cut else self._head
        if sent.destaged > end:
            self._begin(sent)
            return
        current = self._store.current
        if sent.committed > end:
            raise ShipmentError(f"the superblock calls LSN {sent.committed} committed, and the log here ends at {end}")
        is_newer = sent.epoch.number > current.epoch.number
        if sent.destaged < current.destaged or (sent.batch_end < current.batch_end and not is_newer):
            raise ShipmentError("the superblock is older than the one here")
        self._sync()
        self._write(sent, begins_there=sent.oldest > current.oldest)
        if cut:
            self._finish_cut(*cut)
        self._table.drop_below(self._store.current.oldest)

    def _write(self, sent: Superblock, begins_there: bool) -> None:
        """What a superblock says, and again if the other slot has an older epoch or another beginning of the log; with
        begins_there that of this one. Lock held. Raises DeviceError."""
        store = self._store
        assert store
        changes = {name: getattr(sent, name) for name in _SHIPPED} | {"is_copy": True}
        if begins_there:
            changes |= {"oldest": sent.oldest, "oldest_place": sent.oldest_place}
        store.write(**changes)
        written = store.current
        kept = {(slot.oldest, slot.epoch, slot.is_copy) for slot in store.slots if slot}
        if len(kept) > 1 or None in store.slots:
            store.write(**changes)
        self._order = EpochOrder(written)

    def _begin(self, sent: Superblock) -> None:
        """The log begins at `destaged` of that superblock: whatever it had is given up. Lock held."""
        if not sent.oldest == sent.destaged == sent.committed:
            raise ShipmentError(f"the log here ends before LSN {sent.destaged}, where the superblock does not begin")
        first = sent.with_changes(is_copy=True, sequence=1)
        if self._store is None:
            store = SuperblockStore(self._device, None, first)
            store.format(first)
        else:
            store = self._store
            self._sync()
            self._write(sent, begins_there=True)
        current = store.current
        bury_discarded(
            self._device, current.data_pages, current.destaged_place, current.destaged_place + current.data_pages
        )
        self._store, self._order, self._table = store, EpochOrder(current), SegmentTable()
        self._head = self._synced = current.destaged
        # No generation has this number, so the first segment needs no sync.
        self._end = LogEnd(current.destaged_place, current.destaged_previous, 0, self._end.time)
        _log.info("the log begins at LSN %d", self._head)

    def _check_geometry(self, sent: Superblock) -> None:
        """Lock held. Raises ShipmentError."""
        if sent.log_bytes > self._device.size:
            raise ShipmentError(
                f"the owner's log has {sent.log_bytes} bytes, and '{self._device.name}' only {self._device.size}: give "
                "this standby a log of the same size"
            )
        current = self.superblock
        if current is None:
            return
        if sent.uuid != current.uuid:
            raise NotOwnerError(
                f"log '{self._device.name}' is of another volume than what was sent: check peer= of the owner; to give "
                "up what this log holds, start this standby once with force=discard-log"
            )
        if sent.log_bytes != current.log_bytes or sent.origin_bytes < current.origin_bytes:
            raise ShipmentError("the log or the origin of the owner has another size than before")

    def _check_epoch(self, sent: Superblock, current: Superblock) -> None:
        """Raises NotOwnerError."""
        mine, other = current.epoch, sent.epoch
        if other.number < mine.number or (other.number == mine.number and other != mine):
            raise NotOwnerError(
                f"epoch {other} is not taken: the log here has epoch {mine}; another server has taken over since"
            )

    def _cut(self, sent: Superblock) -> tuple[int, LogEnd] | None:
        """Where the log has to be cut for that superblock: (LSN, end of the log). Lock held. Raises NotOwnerError,
        DeviceError, ShipmentError."""
        assert self._store
        current = self._store.current
        if sent.epoch == current.epoch or not len(self._table):
            return None
        last = self._last_epoch.number
        switches = [one for one in sent.history if one.epoch.number > last and one.first_lsn < self._head]
        if not switches:
            return None
        lsn, previous = switches[0].first_lsn, switches[0].previous
        if lsn < current.destaged:
            raise NotOwnerError(f"the log would be cut at LSN {lsn}, and the origin has it up to {current.destaged}")
        if lsn == current.destaged:
            place, found, generation = current.destaged_place, current.destaged_previous, current.destaged_generation
        else:
            before = self._table.locate(lsn - 1)
            descriptor = LogReader(self._device, current.data_pages, current.uuid).descriptor(before)
            if descriptor.end_lsn != lsn:
                raise NotOwnerError(f"the log has no segment that ends at LSN {lsn}, where the owner's epoch began")
            place, found, generation = before.place + descriptor.log_pages, descriptor.checksum, descriptor.generation
        if found != previous:
            raise NotOwnerError(f"the log is no copy of the owner's: the two differ before LSN {lsn}")
        return lsn, LogEnd(place, found, generation, self._end.time)

    def _finish_cut(self, lsn: int, end: LogEnd) -> None:
        """The superblocks say so already. Lock held. Raises DeviceError."""
        assert self._store
        _log.warning(
            "LSN %d to %d are given up: the owner began a new epoch there, and never answered a flush for them",
            lsn, self._head,
        )  # fmt: skip
        data_pages = self._store.current.data_pages
        # Each says what was committed, which must not count any more.
        cut_off = self._table.first_lsns_between(lsn, self._head)
        bury(self._device, data_pages, (self._table.locate(first_lsn).place for first_lsn in cut_off))
        self._table.cut(lsn)
        self._head = self._synced = lsn
        self._end = end
        bury_discarded(self._device, data_pages, end.place, self._store.reclaimed_place + data_pages)

    def flush(self, sender: Sender) -> None:
        """Everything taken is durable when this returns. Raises NotOwnerError, DeviceError."""
        with self._lock:
            self._check_sender(sender)
            self.last_sign = time.monotonic()
            self._sync()

    def _sync(self) -> None:
        """Lock held. Raises SyncFailedError."""
        if self._store and self._synced < self._head:
            self._store.log_sync.sync()
            self._synced = self._head

    def _check_running(self) -> None:
        if self._stopping:
            raise StoppedError("the server is shutting down")

    def _check_sender(self, sender: Sender) -> None:
        """Lock held. Raises NotOwnerError, StoppedError."""
        self._check_running()
        if sender is not self._sender:
            sender.refusal = sender.refusal or "it has not asked for the state of the log first"
        if sender.refusal:
            raise NotOwnerError(f"nothing of this connection is taken: {sender.refusal}")

    def _refuse(self, sender: Sender, why: str) -> None:
        """Lock held."""
        sender.refusal = why
        self.refused, self.last_refusal = self.refused + 1, why
        self._moved.notify_all()
        _log.error("refused what the owner sent: %s", why)

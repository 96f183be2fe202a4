# SPDX-License-Identifier: BSD-3-Clause
"""The log of a standby: takes whole segments and superblocks from the owner, and keeps the rules of a log itself.

The owner is believed in what it says about its own log, and in nothing that
this one can check: the volume, the epoch, the chain of checksums, every page,
the position, and that nothing is written over that the two superblocks of this
log need. Descriptors and superblocks say what was committed at the owner; so a
generation is synced before the next one is written, and everything before a
superblock. docs/peers-model.md says what goes wrong otherwise.
"""

import contextlib
import logging
import threading
import time

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.errors import (
    DeviceError,
    FormatError,
    LogRefusedError,
    NotOwnerError,
    RequestError,
    ShipmentError,
    StoppedError,
)
from wbcache_core.format import peer_standing, standby_state
from wbcache_core.format.epoch import NO_EPOCH, Epoch
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock, decode
from wbcache_core.log import tail
from wbcache_core.log.epochs import EpochOrder
from wbcache_core.log.geometry import LogEnd, fit
from wbcache_core.log.hot_log import HotLog, Taken
from wbcache_core.log.owner_claims import (
    check_epoch,
    check_geometry,
    check_parting,
    check_segment,
    check_standing,
    end_before,
    find_cut,
)
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import Recovered, recover, without_segments
from wbcache_core.log.shipment import segment_in
from wbcache_core.log.shipped_superblock import destaged_as, write_destaged, write_shipped
from wbcache_core.log.superblocks import SuperblockStore, newest
from wbcache_core.log.tail import Tail
from wbcache_core.log.takeover import FoundData, bury, bury_discarded, take_over
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

_log = logging.getLogger("wbcache")

TURN_SECONDS = 30.0
"""How long a segment waits for the one before it, which was sent before it."""


def recovered_log(device: Device, slots: list[Superblock | None] | None) -> "StandbyLog":
    """What the device has; `slots` are its superblocks, None for a blank one. Writes nothing. Raises DamagedLogError,
    LogVersionError, DeviceError."""
    superblock = newest(slots) if slots else None
    if slots is None or superblock is None:
        return StandbyLog(device, None, None, 0, LogEnd(0, 0, 0, Reading(0)))
    found = _recovered(device, superblock)
    return StandbyLog(device, slots, HotLog(superblock, found), found.head, found.end, _last_epoch(found))


def _recovered(device: Device, superblock: Superblock) -> Recovered:
    """Raises DamagedLogError, LogVersionError, DeviceError."""
    return recover(device, LogReader(device, superblock.data_pages, superblock.uuid), superblock)


def _last_epoch(found: Recovered) -> Epoch:
    return found.last.descriptor.epoch if found.last else NO_EPOCH


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
        self, device: Device, slots: list[Superblock | None] | None, hot: HotLog | None, head: int, end: LogEnd,
        last_epoch: Epoch = NO_EPOCH,
    ) -> None:  # fmt: skip
        """A log that was recovered up to `head`, or a blank one, without slots and content."""
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        """Notified when a segment was taken, or a sender is refused, or the server stops."""
        self._device = device
        self._store = SuperblockStore(device, slots) if slots else None
        self._hot = hot
        """None for a blank log, and when the log has to be read again before it is used."""
        self._head, self._end = head, end
        self._last_epoch = last_epoch
        """Of the last segment."""
        self._synced = head
        """Everything below is durable."""
        self._order = EpochOrder(self._store.current) if self._store else None
        self._sender: Sender | None = None
        self._stopping = self._is_taken = False
        self._standing: Standing | None = None
        """What the owner said last, of the epoch that it had then."""
        self.parts_at = self._given_up_from = 0
        """The LSN from which on the owner does not have what is here, as it says, which may be read without the lock;
        and the one from which on somebody has given that up. 0 for none."""
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
        """The state page. From now on only this sender is heard. Raises DeviceError, NotOwnerError, StoppedError."""
        with self._lock:
            self._check_running()
            before, self._sender = self._sender, sender
            if before and before is not sender:
                before.refusal = "another connection has taken its place"
                self._moved.notify_all()
            sender.has_joined, sender.refusal = False, ""
            self.last_sign = time.monotonic()
            self._sync()
            self._read_again()
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
            current.epoch, current.history, self._given_up_from,
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
        store, order, hot = self._store, self._order, self._hot
        assert store and order and hot
        place = fit(self._end.place, descriptor.log_pages, store.current.data_pages)
        check_segment(descriptor, offset, place, self._head, self._end, store.current, store.reclaimed_place, order)
        if descriptor.generation != self._end.generation:
            self._sync()
        view = self._scratch[: len(data)]
        view[:] = data
        self._device.write([view], offset)
        try:
            hot.append(descriptor, place)
        except BaseException:
            # Nobody knows how much of it is there.
            self._hot = None
            raise
        self._head, self._last_epoch = descriptor.end_lsn, descriptor.epoch
        self._end = LogEnd(place + descriptor.log_pages, descriptor.checksum, descriptor.generation, descriptor.reading)

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
            except (RequestError, DeviceError) as error:
                self._refuse(sender, str(error))
                raise
            sender.has_joined = True
            self.last_sign = time.monotonic()

    def _note(self, sent: Superblock) -> None:
        """Lock held. Raises ShipmentError, NotOwnerError, DeviceError."""
        check_geometry(sent, self.superblock, self._device)
        if self._store is None:
            self._begin(sent)
            return
        current = self._store.current
        check_epoch(sent, current)
        if sent.destaged < current.destaged or sent.batch_end < current.batch_end:
            if sent.epoch.number == current.epoch.number:
                raise ShipmentError("the superblock is older than the one here")
            current = self._reach_back(sent)
        cut = self._cut(sent, self._store.current)
        end = cut[0] if cut else self._head
        if sent.destaged > end:
            self._begin(sent)
            return
        if sent.committed > end:
            raise ShipmentError(f"the superblock calls LSN {sent.committed} committed, and the log here ends at {end}")
        self._sync()
        write_shipped(self._store, sent, begins_there=sent.oldest > current.oldest, cuts=cut is not None)
        self._order = EpochOrder(self._store.current)
        if self._hot:
            self._hot.note(self._store.current)
        if cut:
            self._finish_cut(*cut)
        if sent.origin_bytes > current.origin_bytes:
            # The numbers of blocks may need more bytes.
            self._hot = None
            self._read_again()

    def _reach_back(self, sent: Superblock) -> Superblock:
        """Let the log have what the new owner writes to the origin once more: it took over before it heard that the
        former one had done so. Returns the superblock. Lock held. Raises ShipmentError, DeviceError."""
        assert self._store
        self._sync()
        wanted = destaged_as(self._store.current, sent)
        try:
            found = _recovered(self._device, wanted)
        except LogRefusedError:
            found = None
        if found is None or found.head < self._head:
            raise ShipmentError(
                f"the log here does not reach back to LSN {wanted.destaged}, from where on the new owner writes to the "
                "origin again: start this standby once with force=discard-log"
            )
        write_destaged(self._store, wanted)
        self._go_on_from(self._store.current, found)
        return self._store.current

    def _go_on_from(self, current: Superblock, found: Recovered) -> None:
        """That is what the log has, as recovery sees it. Lock held."""
        self._hot, self._head, self._end = HotLog(current, found), found.head, found.end
        self._last_epoch = _last_epoch(found)

    def _cut(self, sent: Superblock, current: Superblock) -> tuple[int, LogEnd] | None:
        """Where that superblock ends the log, if before the present end. Lock held. Raises as find_cut() does."""
        assert self._hot
        table, lsn = self._hot.table, self._given_up_from
        if lsn and sent.committed <= lsn:
            return lsn, end_before(lsn, current, table, self._device)
        return find_cut(sent, current, table, self._head, self._last_epoch, self._device)

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
            write_shipped(store, sent, begins_there=True, cuts=True)
        current = store.current
        bury_discarded(
            self._device, current.data_pages, current.destaged_place, current.destaged_place + current.data_pages
        )
        self._store, self._order, self._hot = store, EpochOrder(current), HotLog(current, without_segments(current))
        self.parts_at = self._given_up_from = 0
        self._head = self._synced = current.destaged
        # No generation has this number, so the first segment needs no sync.
        self._end = LogEnd(current.destaged_place, current.destaged_previous, 0, self._end.time)
        _log.info("the log begins at LSN %d", self._head)

    def _finish_cut(self, lsn: int, end: LogEnd) -> None:
        """The superblocks say so already. Lock held. Raises DeviceError."""
        assert self._store and self._hot
        _log.warning(
            "LSN %d to %d are cut off: the owner does not have them, and began a new epoch there", lsn, self._head
        )
        data_pages = self._store.current.data_pages
        # Each says what was committed, which must not count any more.
        table, self._hot = self._hot.table, None
        self.parts_at = self._given_up_from = 0
        cut_off = table.first_lsns_between(lsn, self._head)
        self._head = self._synced = lsn
        self._end = end
        bury(self._device, data_pages, (table.locate(first_lsn).place for first_lsn in cut_off))
        bury_discarded(self._device, data_pages, end.place, self._store.reclaimed_place + data_pages)
        # The map has forgotten what was before.
        self._read_again()

    def _read_again(self) -> None:
        """Recover the log, if that is needed. Lock held. Raises DeviceError."""
        if self._store is None or self._hot:
            return
        current = self._store.current
        try:
            found = _recovered(self._device, current)
        except LogRefusedError as error:
            raise DeviceError(str(error)) from None
        if found.head < self._head:
            raise DeviceError(
                f"log '{self._device.name}' cannot be read back from LSN {found.head} on; restore the log device, or "
                "start this standby once with force=discard-log"
            )
        self._go_on_from(current, found)

    def take_standing(self, sender: Sender, page: memoryview) -> None:
        """What the owner says about itself. Raises ShipmentError, NotOwnerError: from then on nothing of this sender is
        taken."""
        with self._lock:
            self._check_sender(sender)
            try:
                standing = peer_standing.decode(page)
                if standing.has_parted:
                    table = self._hot.table if self._hot else None
                    check_parting(standing, self.superblock, table, self._head, self._device)
                    self.parts_at = standing.lsn
                else:
                    check_standing(standing, self.superblock, self._head)
                    self._standing = standing
            except FormatError as error:
                self._refuse(sender, str(error))
                raise ShipmentError(f"what was sent is no standing: {error}") from None
            self.last_sign = time.monotonic()

    def tail(self) -> Tail | None:
        """What the owner does not have, and says that it does not; None if there is nothing. Raises DeviceError,
        DamagedPageError."""
        with self._lock:
            return self._tail()

    def _tail(self) -> Tail | None:
        """Lock held. Raises DeviceError, DamagedPageError."""
        lsn, current = self.parts_at, self.superblock
        if not (lsn and current and self._hot and current.destaged <= lsn < self._head):
            return None
        return tail.look_at(self._device, current, self._hot.table, lsn, self._head)

    def give_up_tail(self, target: str) -> Tail:
        """Copy it to a new file, and let the owner have it cut off. Raises ShipmentError if there is none, ConfigError,
        DeviceError, DamagedPageError."""
        with self._lock:
            self._check_running()
            found, current = self._tail(), self.superblock
            if found is None or current is None or self._hot is None:
                raise ShipmentError("the owner has not said that this log has anything that it lacks")
            self._sync()
            tail.save(self._device, current, self._hot.table, found.lsn, self._head, target)
            self._given_up_from = found.lsn
        _log.warning("LSN %d to %d are given up, as asked; a copy is in '%s'", found.lsn, found.head, target)
        return found

    @property
    def standing(self) -> Standing | None:
        """What the owner of the present epoch said last, None if it has said nothing since this server started. May be
        read without the lock."""
        standing, current = self._standing, self.superblock
        return standing if standing and current and standing.epoch == current.epoch else None

    def keep(self, standing: Standing | None) -> None:
        """What the owner said to the same log before it was read again, if that still holds."""
        with self._lock, contextlib.suppress(FormatError):
            if standing:
                check_standing(standing, self.superblock, self._head)
            self._standing = standing

    def take(self) -> Taken:
        """The log with everything that it has, durable; nobody else changes it from now on. Raises DeviceError,
        ShipmentError, StoppedError, NotOwnerError."""
        with self._lock:
            self._check_running()
            store = self._store
            if store is None:
                raise ShipmentError(f"log '{self._device.name}' is blank: no owner has connected yet")
            self._is_taken = True
            self._moved.notify_all()
            self._sync()
            self._read_again()
            assert self._hot
            return Taken(list(store.slots), store.current, self._hot.recovered(self._end))

    def leave(self, sender: Sender) -> None:
        """Its connection has ended."""
        with self._lock:
            if self._sender is sender:
                self._sender = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that is heard. May be read without the lock."""
        return self._sender is not None

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
        """Lock held. Raises StoppedError, NotOwnerError."""
        if self._stopping:
            raise StoppedError("the server is shutting down")
        if self._is_taken:
            raise NotOwnerError("this standby is taking over: from now on it takes nothing")

    def _check_sender(self, sender: Sender) -> None:
        """Lock held. Raises NotOwnerError, ShipmentError, StoppedError."""
        self._check_running()
        if sender is not self._sender:
            sender.refusal = sender.refusal or "it has not asked for the state of the log first"
        if sender.refusal:
            raise NotOwnerError(f"nothing of this connection is taken: {sender.refusal}")
        if self._store and self._hot is None:
            raise ShipmentError(f"log '{self._device.name}' has to be read again: connect again")

    def _refuse(self, sender: Sender, why: str) -> None:
        """Lock held."""
        sender.refusal = why
        self.refused, self.last_refusal = self.refused + 1, why
        self._moved.notify_all()
        _log.error("refused what the owner sent: %s", why)

# SPDX-License-Identifier: BSD-3-Clause
"""The copy of the owner's log that a standby has: what is on its device, and in memory what recovery would find there.

The owner is believed in what it says about its own log, and in nothing that
this one can check: the volume, the epoch, the chain of checksums, every page,
the position, and that nothing is written over that the two superblocks of this
log need. Descriptors and superblocks say what was committed at the owner; so a
generation is synced before the next one is written, and everything before a
superblock. docs/peers-model.md says what goes wrong otherwise.
"""

import itertools
import logging
from collections.abc import Sequence
from typing import Any

from wbcache_core.clock import Reading
from wbcache_core.device.device import Device
from wbcache_core.errors import DeviceError, LogRefusedError, RequestError, ShipmentError
from wbcache_core.format import standby_state
from wbcache_core.format.changed_regions import ChangedRegions
from wbcache_core.format.epoch import NO_EPOCH
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.segment import MAX_SEGMENT_PAGES, Descriptor
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock
from wbcache_core.log import tail
from wbcache_core.log.arrivals import Arrived
from wbcache_core.log.epochs import EpochOrder
from wbcache_core.log.geometry import LogEnd, fit
from wbcache_core.log.hot_log import HotLog, Taken
from wbcache_core.log.owner_claims import (
    check_epoch,
    check_geometry,
    check_on_origin,
    check_origins,
    check_parting,
    check_segment,
    end_before,
    find_cut,
)
from wbcache_core.log.reader import LogReader
from wbcache_core.log.recovery import Recovered, recover, without_segments
from wbcache_core.log.shipped_superblock import (
    OwnOrigin,
    destaged_as,
    shipped,
    shipped_beside,
    to_be_filled,
    write_destaged,
    write_shipped,
)
from wbcache_core.log.superblocks import SuperblockStore, newest
from wbcache_core.log.tail import Tail
from wbcache_core.log.takeover import FoundData, bury, bury_chain, bury_discarded, take_over
from wbcache_core.units import PAGE_BYTES

_log = logging.getLogger("wbcache")

_beginnings = itertools.count()


def recovered_copy(
    device: Device, slots: list[Superblock | None] | None, own: OwnOrigin | None = None
) -> "LogCopy":  # fmt: skip
    """What the device has; `slots` are its superblocks, None for a blank one; `own` as for LogCopy. Writes nothing.
    Raises DamagedLogError, LogVersionError, DeviceError."""
    superblock = newest(slots) if slots else None
    if slots is None or superblock is None:
        return LogCopy(device, own=own)
    return LogCopy(device, slots, _recovered(device, superblock), own)


def _recovered(device: Device, superblock: Superblock) -> Recovered:
    """Raises DamagedLogError, LogVersionError, DeviceError."""
    return recover(device, LogReader(device, superblock.data_pages, superblock.uuid), superblock)


class LogCopy:
    """StandbyLog's lock guards every field, and is held while a method runs; properties may be read without it."""

    def __init__(
        self, device: Device, slots: list[Superblock | None] | None = None, found: Recovered | None = None,
        own: OwnOrigin | None = None,
    ) -> None:  # fmt: skip
        """As recovery found it, or a blank one. `own` is the origin that this node destages to, None on a shared
        one."""
        self._device = device
        self._own = own
        self._store = SuperblockStore(device, slots) if slots else None
        self._order = EpochOrder(self._store.current) if self._store else None
        self._hot: HotLog | None = None
        """None for a blank log."""
        self._head, self._end = 0, LogEnd(0, 0, 0, Reading(0))
        self._last_epoch = NO_EPOCH
        """Of the last segment."""
        if self._store and found:
            self._go_on_from(self._store.current, found)
        self._synced = self._head
        """Everything below is durable."""
        self.is_destaging = False
        """A batch is on its way to the origin of this node: the log does not begin anew meanwhile."""
        self.beginning = next(_beginnings)
        """Another number whenever the log has been read, or has begun anew."""
        self.failure: BaseException | None = None
        """The device may have another state than the fields say: the log has to be recovered again."""

    def prepare(self) -> None:
        """Make durable what recovery found, and what it left out unreadable. Raises DeviceError; then it may be called
        again."""
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
        """The newest, None for a blank log."""
        return self._store.current if self._store else None

    @property
    def head(self) -> int:
        """Where the log ends."""
        return self._head

    @property
    def end_place(self) -> int:
        """The position after its last segment."""
        return self._end.place

    @property
    def is_short_of_room(self) -> bool:
        """Whether less than a quarter of the log is free, or less than the owner leaves free before it lets anybody
        write (NumberLine.room_in_log) and as much again."""
        current = self.superblock
        if current is None:
            return False
        least = max(current.data_pages // 4, 2 * MAX_SEGMENT_PAGES)
        return current.data_pages - (self._end.place - current.oldest_place) < least

    @property
    def synced(self) -> int:
        """Everything below is durable."""
        return self._synced

    def state(self, given_up_from: int) -> StandbyState:
        """What the owner is told, but for how the origin does; a tail from that LSN on is given up, 0 for none."""
        room = self._device.size - self._device.size % PAGE_BYTES
        own_bytes = self._own.byte_count if self._own else 0
        if self._store is None:
            return standby_state.blank(room, own_bytes)
        current = self._store.current
        lowest = min((slot for slot in self._store.slots if slot), key=lambda slot: slot.oldest)
        return StandbyState(
            current.uuid, room, current.log_bytes, current.origin_bytes, self._head, self._end.place,
            self._end.previous, lowest.oldest, self._store.reclaimed_place, current.destaged, current.batch_end,
            current.epoch, current.history, given_up_from, current.has_own_origins, current.is_inconsistent,
            current.fill, own_bytes,
        )  # fmt: skip

    def append(self, run: Sequence[Arrived[Any]]) -> int:
        """Write segments that follow each other, of one generation and in one place, as far as they may follow the log;
        returns how many that are.

        Raises ShipmentError if the first may not, and DeviceError; then nothing has changed.
        """
        first = run[0].descriptor
        ends: list[LogEnd] = []
        for one in run:
            try:
                head = one.descriptor.first_lsn if ends else self._head
                ends.append(self._end_after(one.descriptor, one.offset, head, ends[-1] if ends else self._end))
            except ShipmentError:
                if not ends:
                    raise
                # It is refused when its turn has come.
                break
        taken = run[: len(ends)]
        if first.generation != self._end.generation:
            self.sync()
        self._device.write([one.image for one in taken], run[0].offset)
        try:
            self._enter([one.descriptor for one in taken], ends)
        except BaseException as error:
            # Nobody knows how much of them is in memory.
            self.failure = error
            raise
        return len(taken)

    def _end_after(self, descriptor: Descriptor, offset: int, head: int, end: LogEnd) -> LogEnd:
        """Where the log ends after a segment that was sent to that byte, if it may follow what ends there. Raises
        ShipmentError."""
        store, order = self._store, self._order
        assert store and order
        place = fit(end.place, descriptor.log_pages, store.current.data_pages)
        check_segment(descriptor, offset, place, head, end, store.current, store.reclaimed_place, order)
        return LogEnd(place + descriptor.log_pages, descriptor.checksum, descriptor.generation, descriptor.reading)

    def _enter(self, descriptors: Sequence[Descriptor], ends: Sequence[LogEnd]) -> None:
        assert self._hot
        for descriptor, end in zip(descriptors, ends, strict=True):
            self._hot.append(descriptor, end.place - descriptor.log_pages)
            self._head, self._last_epoch, self._end = descriptor.end_lsn, descriptor.epoch, end

    def note(self, sent: Superblock, given_up_from: int) -> bool:
        """Make a superblock of the owner's durable; returns whether the log was cut off or begun anew. What it has from
        that LSN on is given up, 0 for none.

        Raises ShipmentError and NotOwnerError, and DeviceError: then nobody knows what the device has.
        """
        try:
            return self._note(sent, given_up_from)
        except RequestError:
            raise
        except BaseException as error:
            self.failure = error
            raise

    def _note(self, sent: Superblock, given_up_from: int) -> bool:
        """The same."""
        check_geometry(sent, self.superblock, self._device)
        check_origins(sent, self._own)
        if self._store is None:
            return self._begin(sent)
        current = self._store.current
        check_epoch(sent, current)
        if sent.is_inconsistent:
            return self._begin(sent)
        if self._own is None and (sent.destaged < current.destaged or sent.batch_end < current.batch_end):
            if sent.epoch.number == current.epoch.number:
                raise ShipmentError("the superblock is older than the one here")
            current = self._reach_back(sent)
        cut = self._cut(sent, self._store.current, given_up_from)
        end = cut[0] if cut else self._head
        if sent.destaged > end:
            return self._begin(sent)
        if sent.committed > end:
            raise ShipmentError(f"the superblock calls LSN {sent.committed} committed, and the log here ends at {end}")
        self.sync()
        changes = shipped_beside(sent, current) if self._own else shipped(sent)
        if not self._own and sent.oldest > current.oldest:
            changes |= {"oldest": sent.oldest, "oldest_place": sent.oldest_place}
        write_shipped(self._store, changes, cuts=cut is not None)
        self._order = EpochOrder(self._store.current)
        assert self._hot
        self._hot.note(self._store.current)
        if cut:
            self._finish_cut(*cut)
        if sent.origin_bytes > current.origin_bytes:
            # The numbers of blocks may need more bytes.
            self._read_again()
        return cut is not None

    def _reach_back(self, sent: Superblock) -> Superblock:
        """Let the log have what the new owner writes to the origin once more: it took over before it heard that the
        former one had done so. Returns the superblock. Raises ShipmentError, DeviceError."""
        assert self._store
        self.sync()
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
        """That is what the log has, as recovery sees it."""
        self._hot, self._head, self._end = HotLog(current, found), found.head, found.end
        self._last_epoch = found.last.descriptor.epoch if found.last else NO_EPOCH

    def _cut(self, sent: Superblock, current: Superblock, given_up_from: int) -> tuple[int, LogEnd] | None:
        """Where that superblock ends the log, if before the present end. Raises as find_cut() does."""
        assert self._hot
        table, lsn = self._hot.table, given_up_from
        if lsn and sent.committed <= lsn:
            check_on_origin(lsn, current)
            return lsn, end_before(lsn, current, table, self._device)
        return find_cut(sent, current, table, self._head, self._last_epoch, self._device)

    def _begin(self, sent: Superblock) -> bool:
        """The log begins at `destaged` of that superblock: whatever it had is given up. Returns True."""
        if not sent.oldest == sent.destaged == sent.committed:
            raise ShipmentError(f"the log here ends before LSN {sent.destaged}, where the superblock does not begin")
        if self.is_destaging:
            raise ShipmentError("the log begins anew, and a batch is on its way to the origin: connect again")
        changes = to_be_filled(sent, self._own, self.superblock) if self._own else shipped(sent)
        changes |= {"oldest": sent.oldest, "oldest_place": sent.oldest_place}
        if self._store is None:
            first = sent.with_changes(sequence=1, **changes)
            store = SuperblockStore(self._device, None, first)
            store.format(first)
        else:
            store = self._store
            self.sync()
            write_shipped(store, changes, cuts=True)
        current = store.current
        bury_chain(self._device, current)
        bury_discarded(
            self._device, current.data_pages, current.destaged_place, current.destaged_place + current.data_pages
        )
        self._store, self._order, self._hot = store, EpochOrder(current), HotLog(current, without_segments(current))
        self._head = self._synced = current.destaged
        self._last_epoch = NO_EPOCH
        # No generation has this number, so the first segment needs no sync.
        self._end = LogEnd(current.destaged_place, current.destaged_previous, 0, self._end.time)
        self.beginning = next(_beginnings)
        _log.info("the log begins at LSN %d", self._head)
        return True

    def _finish_cut(self, lsn: int, end: LogEnd) -> None:
        """The superblocks say so already. Raises DeviceError."""
        assert self._store and self._hot
        _log.warning(
            "LSN %d to %d are cut off: the owner does not have them, and began a new epoch there", lsn, self._head
        )
        data_pages = self._store.current.data_pages
        # Each says what was committed, which must not count any more.
        table = self._hot.table
        cut_off = table.first_lsns_between(lsn, self._head)
        self._head = self._synced = lsn
        self._end = end
        bury(self._device, data_pages, (table.locate(first_lsn).place for first_lsn in cut_off))
        bury_discarded(self._device, data_pages, end.place, self._store.reclaimed_place + data_pages)
        # The map has forgotten what was before.
        self._read_again()

    def _read_again(self) -> None:
        """Recover the log. Raises DeviceError."""
        assert self._store
        try:
            found = _recovered(self._device, self._store.current)
        except LogRefusedError as error:
            raise DeviceError(str(error)) from None
        if found.head < self._head:
            raise DeviceError(
                f"log '{self._device.name}' cannot be read back from LSN {found.head} on; restore the log device, or "
                "start this standby once with force=discard-log"
            )
        self._go_on_from(self._store.current, found)

    @property
    def hot(self) -> HotLog | None:
        """Where its segments are; another one after a cut, or when it begins anew."""
        return self._hot

    def regions(self) -> ChangedRegions | None:
        """See SuperblockStore; the log is not blank."""
        assert self._store
        return self._store.regions()

    def change(self, twice: bool = False, **changes: Any) -> None:
        """Say something else about the origin of this node, or give up log space, which takes both superblocks. Raises
        DeviceError."""
        assert self._store and self._hot
        self.sync()
        for _ in range(1 + twice):
            self._store.write(**changes)
        self._hot.note(self._store.current)

    def check_parting(self, standing: Standing) -> None:
        """Whether the log of an owner can part from this one where it says. Raises FormatError, DeviceError,
        DamagedPageError."""
        table = self._hot.table if self._hot else None
        check_parting(standing, self.superblock, table, self._head, self._device)

    def tail_from(self, lsn: int) -> Tail | None:
        """What this node has from there on, None if nothing. Raises DeviceError, DamagedPageError."""
        current = self.superblock
        if not (lsn and current and self._hot and lsn < self._head):
            return None
        if lsn < current.destaged and not current.has_own_origins:
            return None
        return tail.look_at(self._device, current, self._hot.table, lsn, self._head)

    def save_tail(self, lsn: int, target: str) -> None:
        """Copy what tail_from() found in the log, which is something, to a new file. Raises ConfigError, DeviceError,
        DamagedPageError."""
        current = self.superblock
        assert current and self._hot
        self.sync()
        tail.save(self._device, current, self._hot.table, max(lsn, current.destaged), self._head, target)

    def taken(self) -> Taken:
        """Everything it has, durable, for a server that goes on from there. Raises SyncFailedError."""
        assert self._store and self._hot
        self.sync()
        return Taken(list(self._store.slots), self._store.current, self._hot.recovered(self._end))

    def sync(self) -> None:
        """Make durable what the log has. Raises SyncFailedError, always after the first failure."""
        if self._store and self._synced < self._head:
            self._store.log_sync.sync()
            self._synced = self._head

    def check_syncs(self) -> None:
        """Raises SyncFailedError if a sync has failed: what the device has is not certain then before a new start."""
        if self._store:
            self._store.log_sync.sync()

# SPDX-License-Identifier: BSD-3-Clause
"""The log of a standby: who may write it, in which order, and what its owner says of it.

One connection at a time is heard: the one that has asked for the state last. Its segments may come in any order and are
taken in theirs. What is taken, and how, says log_copy.py.
"""

import contextlib
import dataclasses
import logging
import threading
import time

from wbcache_core.device.device import Device
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
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.superblock import Superblock, decode
from wbcache_core.log.arrivals import Arrivals, Arrived
from wbcache_core.log.hot_log import Taken
from wbcache_core.log.log_copy import LogCopy, recovered_copy
from wbcache_core.log.owner_claims import check_standing
from wbcache_core.log.shipment import segment_in
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.log.superblocks import read_slots
from wbcache_core.log.tail import Tail

_log = logging.getLogger("wbcache")

TURN_SECONDS = 30.0
"""How long a segment waits for the one before it, which was sent before it."""


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
        self, device: Device, slots: list[Superblock | None] | None, own: OwnOrigin | None = None
    ) -> None:  # fmt: skip
        """What the device has; `slots` are its superblocks, None for a blank one; `own` is the origin of this node,
        None on a shared one. Writes nothing. Raises DamagedLogError, LogVersionError, DeviceError."""
        self._lock = threading.Lock()
        self.destage_wanted = threading.Condition(self._lock)
        """Notified when `safe` has moved, and at the stop."""
        self._device = device
        self._own = own
        self._copy = recovered_copy(device, slots, own)
        self._arrivals: Arrivals[Sender] = Arrivals(self._lock)
        self._sender: Sender | None = None
        self._stopping = self._is_taken = False
        self._standing: Standing | None = None
        """What the owner said last, of the epoch that it had then."""
        self.parts_at = self._given_up_from = 0
        """The LSN from which on the owner does not have what is here, as it says, which may be read without the lock;
        and the one from which on somebody has given that up. 0 for none."""
        self.safe = 0
        """What is below is in the log of the owner and of all that count, as it said: no owner to come lacks it."""
        self.agreed = 0
        """The highest that `safe` was, of the log as it is: that does not end with the connection."""
        found = self._copy.superblock
        self.may_be_ahead = found is not None and not found.is_copy
        """Nobody else need have what is on the origin of this node: this was the log of an owner when the server began,
        or the owner says that it lacks something. That ends with a superblock of an owner."""
        self.everywhere = 0
        """What is below is on the origins of all nodes, as the owner said with `safe`."""
        self.is_failing = False
        """The origin of this node takes nothing. Whoever destages to it writes this."""
        self._parted_in = 0
        """Number of the epoch of the owner that says so."""
        self.last_sign = 0.0
        """When the owner last asked for anything, or got an answer, in seconds of time.monotonic(). Who is about to
        take the lock may write it as well."""
        self.refused, self.last_refusal = 0, ""

    def prepare(self) -> None:
        """Make durable what recovery found, and what it left out unreadable. Raises DeviceError; then it may be called
        again."""
        with self._lock:
            self._copy.prepare()

    @property
    def superblock(self) -> Superblock | None:
        """The newest, None for a blank log. May be read without the lock."""
        return self._copy.superblock

    @property
    def cursors(self) -> tuple[int, int]:
        """(received, committed) LSNs. May be read without the lock: each is true, or was a moment ago."""
        return self._copy.head, self._copy.synced

    def stop(self) -> None:
        """Send everybody away who waits. Whatever was answered as durable is."""
        with self._lock:
            self._stopping = True
            self._arrivals.wake_all()
            self.destage_wanted.notify_all()

    def state(self, sender: Sender) -> bytes:
        """The state page. From now on only this sender is heard. Raises DeviceError, NotOwnerError, StoppedError."""
        self.last_sign = time.monotonic()
        with self._lock:
            self._check_running()
            before, self._sender = self._sender, sender
            if before and before is not sender:
                before.refusal = "another connection has taken its place"
                self._arrivals.wake_all()
            sender.has_joined, sender.refusal = False, ""
            # That was said of another connection, perhaps by another owner.
            self.safe = 0
            self.last_sign = time.monotonic()
            self._recover_if_failed()
            self._copy.sync()
            return self._state()

    def _state(self) -> bytes:
        """The state page. Lock held."""
        state = self._copy.state(self._given_up_from)
        return standby_state.encode(dataclasses.replace(state, is_failing=self.is_failing and not state.is_blank))

    def _recover_if_failed(self) -> None:
        """Find out what the device has, if that is not certain. Lock held. Raises DeviceError, always after a sync that
        failed."""
        if self._copy.failure is None:
            return
        if self._copy.is_destaging:
            # The batch would go on over what another log, or another filling, puts there.
            raise DeviceError(
                f"log '{self._device.name}' has to be read again, and a batch is on its way to the origin"
            )
        self._copy.check_syncs()
        try:
            # One that was blank may have been discarded: what is there does not count.
            copy = recovered_copy(self._device, read_slots(self._device) if self.superblock else None, self._own)
        except LogRefusedError as error:
            raise DeviceError(str(error)) from None
        copy.prepare()
        self._copy = copy
        self.agreed = min(self.agreed, copy.head)
        if copy.head <= self._given_up_from:
            self.parts_at = self._given_up_from = 0

    def take_segment(self, sender: Sender, data: memoryview, offset: int, is_durable: bool) -> None:
        """Write a whole segment at its place, after those before it. With is_durable it and they are committed.

        Raises ShipmentError, NotOwnerError, DeviceError: from then on nothing of this sender is taken.
        """
        self._note_sign(sender)
        arrived: Arrived[Sender] | None = None
        failure: ShipmentError | None = None
        superblock = self.superblock
        if superblock:
            # Not under the lock: this is most of the work.
            try:
                arrived = self._arrivals.put(sender, segment_in(data, superblock.uuid), data, offset)
            except ShipmentError as error:
                failure = error
        with self._lock:
            try:
                self._take_in_turn(sender, arrived, failure, is_durable)
            finally:
                if arrived:
                    self._arrivals.remove(arrived)

    def _take_in_turn(
        self, sender: Sender, arrived: Arrived[Sender] | None, failure: ShipmentError | None, is_durable: bool
    ) -> None:
        """The same, when it has been verified, or `failure` says why it is not taken. Lock held."""
        self._check_sender(sender)
        try:
            if failure:
                raise failure
            if arrived is None or self.superblock is None or not sender.has_joined:
                raise ShipmentError("a segment was sent before a superblock")
            self._wait_for_turn(arrived)
            if not arrived.is_taken:
                self._take(arrived)
            if is_durable:
                self._copy.sync()
        except (ShipmentError, DeviceError) as error:
            self._refuse(sender, str(error))
            raise
        self.last_sign = time.monotonic()

    def _wait_for_turn(self, arrived: Arrived[Sender]) -> None:
        """Return when everything before that segment is here. Lock held; released while waiting."""
        first, until = arrived.descriptor.first_lsn, time.monotonic() + TURN_SECONDS
        while self._copy.head < first:
            left = until - time.monotonic()
            if left <= 0:
                raise ShipmentError(f"the segment at LSN {first} came without those from {self._copy.head}")
            self._arrivals.wait(first, left)
            self._check_sender(arrived.sender)

    def _take(self, first: Arrived[Sender]) -> None:
        """Write it, and at once all that have arrived and follow it, so that the device gets more than one segment at a
        time. Lock held. Raises ShipmentError, DeviceError: then nothing has changed."""
        run = self._arrivals.run_from(first)
        for one in run[: self._copy.append(run)]:
            one.is_taken = True
            self._arrivals.wake(one.descriptor.first_lsn)
        self._arrivals.wake(self._copy.head)
        if self._own and self._copy.is_short_of_room:
            self.destage_wanted.notify_all()

    def take_superblock(self, sender: Sender, page: memoryview) -> None:
        """Make a superblock of the owner's durable. Raises ShipmentError, NotOwnerError, DeviceError: from then on
        nothing of this sender is taken."""
        self._note_sign(sender)
        with self._lock:
            self._check_sender(sender)
            try:
                try:
                    sent = decode(page)
                except FormatError as error:
                    raise ShipmentError(f"what was sent is no superblock: {error}") from None
                # An owner of before has not parted there.
                given_up = self._given_up_from if sent.epoch.number >= self._parted_in else 0
                before = self.superblock.epoch if self.superblock else None
                is_cut = self._copy.note(sent, given_up)
                if is_cut:
                    self.parts_at = self._given_up_from = 0
                if is_cut or sent.epoch != before:
                    # Another owner may lack what this log lacks, and write something else there.
                    self.agreed = min(self.agreed, self._copy.head)
            except (RequestError, DeviceError) as error:
                self._refuse(sender, str(error))
                raise
            sender.has_joined, self.may_be_ahead = True, False
            self.last_sign = time.monotonic()
            # A tag may have gone that held the origin back.
            self.destage_wanted.notify_all()

    def take_standing(self, sender: Sender, page: memoryview) -> None:
        """What the owner says about itself. Raises ShipmentError, NotOwnerError: from then on nothing of this sender is
        taken."""
        with self._lock:
            self._check_sender(sender)
            try:
                standing = peer_standing.decode(page)
                if standing.has_parted:
                    self._copy.check_parting(standing)
                    self.parts_at, self._parted_in = standing.lsn, standing.epoch.number
                    self.agreed, self.may_be_ahead = min(self.agreed, standing.lsn), True
                else:
                    check_standing(standing, self.superblock, self._copy.head)
                    self._standing, self.safe = standing, standing.safe
                    self.everywhere = standing.everywhere
                    self.agreed = max(self.agreed, standing.safe)
                    self.destage_wanted.notify_all()
            except FormatError as error:
                self._refuse(sender, str(error))
                raise ShipmentError(f"what was sent is no standing: {error}") from None
            self.last_sign = time.monotonic()

    @property
    def lock(self) -> threading.Lock:
        """Guards the cursors and the segments of the copy."""
        return self._lock

    @property
    def copy(self) -> LogCopy:
        """What the log has. Its lock is held, or one field is read that may be a moment old."""
        return self._copy

    def check_usable(self) -> None:
        """Lock held. Raises StoppedError, NotOwnerError if the log is taken, DeviceError if it has to be read again."""
        self._check_running()
        if self._copy.failure:
            raise DeviceError(f"log '{self._device.name}' has to be read again")

    def report(self, sender: Sender) -> bytes:
        """The state page, for whoever is heard already, and a sign of life; it makes nothing durable. Raises
        NotOwnerError for one that was heard and is not any more: who has nothing to send learns that here."""
        with self._lock:
            self._check_running()
            if sender.refusal:
                self._check_sender(sender)
            self.last_sign = time.monotonic()
            return self._state()

    def tail(self) -> Tail | None:
        """What the owner does not have, and says that it does not; None if there is nothing. Raises DeviceError,
        DamagedPageError."""
        with self._lock:
            return self._copy.tail_from(self.parts_at)

    def give_up_tail(self, target: str) -> Tail:
        """Copy what the log has of it to a new file, and let the owner have it cut off. Raises ShipmentError if there
        is none, ConfigError, DeviceError, DamagedPageError."""
        with self._lock:
            self._check_running()
            found = self._copy.tail_from(self.parts_at)
            if found is None:
                raise ShipmentError("the owner has not said that this log has anything that it lacks")
            if found.is_in_log:
                self._copy.save_tail(found.lsn, target)
            self._given_up_from = found.lsn
        kept = f"a copy is in '{target}'" if found.is_in_log else "they were on the origin alone"
        _log.warning("LSN %d to %d are given up, as asked; %s", found.lsn, found.head, kept)
        return found

    @property
    def standing(self) -> Standing | None:
        """What the owner of the present epoch said last, None if it has said nothing since this server started. May be
        read without the lock."""
        standing, current = self._standing, self.superblock
        return standing if standing and current and standing.epoch == current.epoch else None

    def keep(self, standing: Standing | None) -> None:
        """What the owner said to the same log before a takeover that failed, if that still holds. The epoch may be the
        one of the takeover: nobody else has begun one since."""
        with self._lock, contextlib.suppress(FormatError):
            if standing and self.superblock:
                standing = dataclasses.replace(standing, epoch=self.superblock.epoch)
                check_standing(standing, self.superblock, self._copy.head)
            self._standing = standing

    def take(self) -> Taken:
        """The log with everything that it has, durable; nobody else changes it from now on. Raises DeviceError,
        ShipmentError, StoppedError, NotOwnerError."""
        with self._lock:
            self._check_running()
            if self.superblock is None:
                raise ShipmentError(f"log '{self._device.name}' is blank: no owner has connected yet")
            self._is_taken = True
            self._arrivals.wake_all()
            self._recover_if_failed()
            return self._copy.taken()

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
        self._note_sign(sender)
        with self._lock:
            self._check_sender(sender)
            self.last_sign = time.monotonic()
            self._copy.sync()

    def _note_sign(self, sender: Sender) -> None:
        """Something has come from the owner: it is alive, even if the device keeps it waiting. No lock held."""
        if sender is self._sender:
            self.last_sign = time.monotonic()

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
        if self._copy.failure:
            raise ShipmentError(f"log '{self._device.name}' has to be read again: connect again")

    def _refuse(self, sender: Sender, why: str) -> None:
        """Lock held."""
        sender.refusal = why
        self.refused, self.last_refusal = self.refused + 1, why
        self._arrivals.wake_all()
        _log.error("refused what the owner sent: %s", why)

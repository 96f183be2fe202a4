# SPDX-License-Identifier: BSD-3-Clause
"""Brings the log to one peer: connects, compares, catches up from the log, then sends what is being committed.

In step, the peer gets a generation at the same time as the log device. When
too much is waiting for it, it falls behind and is served from the log.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wbcache_core.errors import (
    DeviceError,
    FormatError,
    PartedError,
    PeerRefusedError,
    StoppedError,
    SupersededError,
    WbcacheError,
)
from wbcache_core.format import standby_state
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.peer_standing import encode as encode_standing
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.geometry import offset_of
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.events import Events
from wbcache_core.shipping.bell import Bell
from wbcache_core.shipping.filling import Filler
from wbcache_core.shipping.joining import FILL, Joined, as_of, join, told
from wbcache_core.shipping.parcel_queue import ParcelQueue
from wbcache_core.shipping.parcels import LogParcels, Parcel
from wbcache_core.shipping.peer import CATCHING_UP, CONNECTING, LOST, REFUSED, UP_TO_DATE, Peer, Peers
from wbcache_core.shipping.peer_room import PeerRoom
from wbcache_core.shipping.sent import Sent
from wbcache_core.threads import InternalErrors, StartTogether
from wbcache_core.units import MIB

if TYPE_CHECKING:
    # Loads libnbd, which only servers with peers need.
    from wbcache_core.shipping.link import Link

_log = logging.getLogger("wbcache")

_MOST_REQUESTS = 64
"""Under way at once. nbdkit works on the oldest 16 of a connection; with more, one that is far away is never idle."""
_MOST_BYTES = 8 * MIB
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between attempts to connect."""
_REFUSED_PAUSE = 5.0
_REPORT_SECONDS = 0.25
"""A peer with an origin of its own is told how far it may destage, and asked how far it is, not more often."""
_LOOK_SECONDS = 1.0
"""A peer that does not answer is looked at so often."""

Connect = Callable[[str, Bell, float, Callable[[], bool]], "Link"]
"""Makes a connection, with the arguments of Link."""


class Shipper:
    """All fields are the thread's, except `_finish_at`, which is written once, before the bell rings, and `queue` and
    `filler`, which have locks of their own."""

    def __init__(
        self, peer: Peer, peers: Peers, line: NumberLine, parcels: LogParcels, store: SuperblockStore, events: Events,
        own_epoch: Epoch, supersede: Callable[[str], None], connect: Connect, filler: Filler | None = None,
    ) -> None:  # fmt: skip
        """`own_epoch` as for join(); `supersede` is told why this server must stop; `filler` is for peers with origins
        of their own."""
        self._peer = peer
        self._peers = peers
        self._line = line
        self._parcels = parcels
        self._store = store
        self._events = events
        self._own_epoch = own_epoch
        self._supersede = supersede
        self._connect = connect
        self.filler = filler
        self._bell = Bell()
        self.queue = ParcelQueue(peer.name, line, parcels, self._bell.ring)
        self._sent: deque[Sent] = deque()
        self._sent_bytes = 0
        self._told, self._is_telling = 0, False
        """The number of the newest superblock that was sent whole on this connection; whether one is under way."""
        self._known_history: tuple[Switch, ...] = ()
        """Of the last superblock that the peer has."""
        self._told_standing: tuple[bool, bool] | None = None
        """In this connection: whether the peer is complete, and whether it may be left out."""
        self._told_safe, self._told_committed, self._told_everywhere, self._safe_told_at = 0, 0, 0, 0.0
        """How far the peer may destage to its own origin, where the newest commit ended, and what is on all origins, as
        it was told; when."""
        self.report_seconds = _REPORT_SECONDS
        self._report: Any = None
        """The page that a report of the peer comes in, while it is under way."""
        self._reported_at, self._has_news, self._waits_for_answers = 0.0, False, False
        """When it was asked last, whether it is to be asked soon, and whether what goes next goes alone."""
        self._relies_on_us = False
        """It was told that it has everything and is waited for, and has not answered to anything else since."""
        self._room = PeerRoom(peers.timeout)
        self._goal = (0, 0)
        """What the peer has to have to be up to date: LSN and superblock of when it was connected or let in."""
        self._reported = ""
        self._is_on_trial = False
        """A connection has failed, and the peer has made nothing durable since, though there was something. It may be
        reached and take no more, because its disk is full or fails: that is no better than silence."""
        self._finish_at = 0.0
        self._errors = InternalErrors(f"shipping to peer '{peer.name}'")
        self._thread: threading.Thread | None = None  # only start() and join() use it

    def start(self, together: StartTogether) -> None:
        """The threads, as some of several. Raises NoThreadError."""
        # A server may have been up for long without a writer.
        self._peers.note_silence(self._peer, time.monotonic())
        self.queue.start(together)
        if self.filler:
            self.filler.start(together)
        self._thread = together.add("wbcache-ship", self._run)

    def finish(self, patience: float) -> None:
        """The line has stopped and nothing more is committed: end when the peer has everything, or is not there, or
        after so many seconds."""
        if self._thread:
            self._finish_at = time.monotonic() + patience
            self._bell.ring()

    def join(self) -> None:
        """Wait for the thread, after finish(). Idempotent."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.queue.join()
        if self.filler:
            self.filler.join()
        self._bell.close()

    def look(self) -> None:
        """There may be a new superblock."""
        self._bell.ring()

    def _has_ended(self) -> bool:
        return bool(self._finish_at)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._has_ended():
            began = time.monotonic()
            try:
                self.serve()
            except StoppedError:
                break
            except SupersededError as error:
                self._note_problem(REFUSED, str(error))
                self._supersede(str(error))
                break
            except PeerRefusedError as error:
                self._note_problem(REFUSED, str(error))
                pause = _REFUSED_PAUSE
            except WbcacheError as error:
                self._note_problem(LOST, str(error))
            except Exception as error:
                self._errors.note(error)
                self._note_problem(LOST, f"internal error: {error!r}")
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._has_ended():
            self._leave_out_if_due()
            self._bell.wait(min(left, _LOOK_SECONDS))

    def serve(self) -> None:
        """One connection, from its beginning to its end. Raises WbcacheError."""
        link = self._connect(self._peer.name, self._bell, self._peers.timeout, self._has_ended)
        try:
            other = self._peers.claim(self._peer, link.identity)
            if other:
                raise PeerRefusedError(
                    f"peer '{self._peer.name}' is the same standby as peer '{other.name}': name each standby once in "
                    "peer="
                )
            joined = self._join(link)
            self.queue.begin(joined.lsn)
            self._ship(link)
        finally:
            link.close()
            self._peers.release(self._peer)
            self.queue.end()
            if self.filler:
                self.filler.rest()
            self._sent.clear()
            self._sent_bytes, self._is_telling, self._told_standing = 0, False, None
            self._told_safe, self._report, self._waits_for_answers = 0, None, False

    def _join(self, link: "Link") -> Joined:
        """Compare, until both can go on, and send the first superblock. Raises WbcacheError."""
        while not self._has_ended():
            try:
                state = standby_state.decode(link.read_state())
            except FormatError as error:
                raise PeerRefusedError(
                    f"peer '{self._peer.name}' does not answer as a standby of this version: {error}; use the same "
                    "version of wbcache on both hosts"
                ) from None
            superblock = self._store.current
            try:
                joined = join(
                    self._peer.name, state, superblock, self._own_epoch, self._line.committed,
                    self._parcels.checksum_before,
                )  # fmt: skip
            except PartedError as error:
                self._write_and_wait(link, encode_standing(self._parting(error.lsn)))
                raise
            if joined:
                self._write_and_wait(link, superblock_format.encode(joined.superblock))
                self._note_joined(joined, joined.superblock == told(superblock), state)
                return joined
            link.wait(_LOOK_SECONDS)
        raise StoppedError("the server is shutting down")

    def _write_and_wait(self, link: "Link", page: bytes) -> None:
        """Write to the beginning of the export. Raises WbcacheError."""
        link.write(page, 0, durably=True)
        while True:
            link.wait(_LOOK_SECONDS)
            if link.answered():
                return
            self._leave_out_if_due()

    def _standing(self) -> Standing:
        superblock, peers, peer = self._store.current, self._peers, self._peer
        sign_ms = round(peers.timeout / 3 * 1000)
        return Standing(
            superblock.uuid, superblock.epoch, peer.committed, peer.is_complete, peers.may_go_on, sign_ms,
            safe=self._told_safe, committed=self._told_committed, everywhere=self._told_everywhere,
        )  # fmt: skip

    def _parting(self, lsn: int) -> Standing:
        """For a peer that has something else from that LSN on. Raises DeviceError."""
        superblock = self._store.current
        if lsn == superblock.destaged:
            previous = superblock.destaged_previous
        else:
            previous = self._parcels.checksum_before(lsn) or 0
        return replace(self._standing(), lsn=lsn, is_complete=False, has_parted=True, previous=previous)

    def _note_joined(self, joined: Joined, is_whole: bool, state: StandbyState) -> None:
        """`is_whole`: its superblock says all that this server's said."""
        if self.filler and joined.rule != FILL:
            place = state.oldest_place
        else:
            # What it said it did not need any more it does not need now.
            place = max(self._peer.place, joined.superblock.oldest_place, state.oldest_place)
        self._told = joined.superblock.sequence if is_whole else 0
        self._known_history = joined.superblock.history
        self._peers.note(
            self._peer, received=joined.lsn, committed=joined.lsn, sequence=self._told, state=CATCHING_UP,
            place=place,
            # It may be another log device.
            is_complete=self._peer.is_complete and joined.lsn >= self._peer.committed and joined.rule != FILL,
            **self._sign_of_health(joined.lsn, made_durable=False),
        )  # fmt: skip
        self._set_goal()
        if self.filler:
            is_inconsistent = self.filler.begin(joined.superblock, state, joined.rule == FILL)
            destaged = 0 if is_inconsistent else state.destaged
            self._peers.note(self._peer, is_inconsistent=is_inconsistent, destaged=destaged)
        _log.info("peer '%s' is connected (%s): it gets the log from LSN %d on", self._peer.name, *joined[:2])
        self._events.note("peer-connected", peer=self._peer.name, rule=joined.rule, lsn=joined.lsn)

    def _ship(self, link: "Link") -> None:
        """Until the server stops. Raises WbcacheError."""
        while not self._is_done(link):
            self._send(link)
            silence = link.silent_for
            link.wait(_LOOK_SECONDS if link.under_way else self._longest_pause())
            answered = link.answered()
            if answered:
                self._note_answers(answered)
            elif link.under_way:
                if not self._is_on_trial:
                    self._peers.note_silence(self._peer, time.monotonic() - max(silence, link.silent_for))
                self._leave_out_if_due()
            elif not self._has_ended() and not self.queue.has_more:
                self._ask_for_life(link)

    def _longest_pause(self) -> float:
        """In seconds, while nothing is under way."""
        if self.filler and (self._has_news or self._peer.is_inconsistent or self._safe() > self._told_safe):
            return self.report_seconds
        return self._peers.timeout / 3

    def _ask_for_life(self, link: "Link") -> None:
        """Nothing has been sent for a while, and nothing is to be sent."""
        if time.monotonic() - link.last_sign < self._peers.timeout / 3:
            return
        if self.filler:
            self._ask_for_report(link)
        else:
            link.flush()
            self._sent.append(Sent())

    def _ask_for_report(self, link: "Link") -> None:
        """What of its log the peer needs, and whether its origin is filled."""
        if self._report is None:
            self._report = link.read_report()
            self._sent.append(Sent(is_report=True))
            self._reported_at, self._has_news = time.monotonic(), False

    def _safe(self) -> int:
        """The LSN below which everything is in all logs that count, and in what is being copied to this peer."""
        assert self.filler
        committed = min(self._line.committed, self._line.peers_committed)
        return min(committed, self.filler.floor())

    def _is_done(self, link: "Link") -> bool:
        if not self._has_ended():
            return False
        if time.monotonic() >= self._finish_at:
            return True
        has_all = self._peer.committed >= self._line.committed and self._peer.sequence == self._store.current.sequence
        return has_all and not link.under_way

    def _send(self, link: "Link") -> None:
        """Everything that may be sent now. Raises WbcacheError."""
        self._tell_standing(link)
        is_wanted = (self._has_news or self._peer.is_inconsistent) and not self._waits_for_answers
        if self.filler and is_wanted and time.monotonic() - self._reported_at >= self.report_seconds:
            self._ask_for_report(link)
        while len(self._sent) < _MOST_REQUESTS and self._sent_bytes < _MOST_BYTES:
            superblock = self._store.current
            is_due = superblock.sequence != self._told and superblock.committed <= self._peer.received
            if is_due and not self._is_telling:
                self._tell(link, superblock, is_whole=True)
            parcel = self.queue.next(self._peer.received)
            if parcel is None:
                self._waits_for_answers = False
                return
            has_room = parcel.end_place <= self._peer.place + self._line.data_pages
            if not (has_room and self._knows_epoch(superblock, parcel)):
                self._tell_first(link, superblock, parcel)
                return
            self._waits_for_answers = False
            self._room.found()
            self.queue.take(parcel)
            link.write(parcel.content, offset_of(parcel.place, self._line.data_pages), parcel.ends_commit)
            self._sent.append(Sent(parcel.end_lsn, parcel.ends_commit, byte_count=len(parcel.content)))
            self._sent_bytes += len(parcel.content)

    def _knows_epoch(self, superblock: Superblock, parcel: Parcel) -> bool:
        """Whether the peer was told of each epoch that began up to there. Else its history would lack the epoch of a
        segment that it has, if the connection ended then."""
        return all(one in self._known_history or one.first_lsn > parcel.first_lsn for one in superblock.history)

    def _tell_first(self, link: "Link", superblock: Superblock, parcel: Parcel) -> None:
        """The peer does not know the epoch of that segment, or its superblocks still need the place, if it does not
        count: a superblock as of there goes first, alone."""
        self._waits_for_answers = bool(link.under_way)
        if link.under_way:
            return
        has_room = parcel.end_place <= self._peer.place + self._line.data_pages
        if self.filler and not has_room:
            # It frees places when it has destaged.
            self._has_news = True
            self._room.lacks()
            self._leave_out_if_due()
            return
        limit = superblock.oldest_place + self._line.data_pages
        if not self.filler and (superblock.destaged > self._peer.received or parcel.end_place > limit):
            raise DeviceError(f"peer '{self._peer.name}' has fallen behind the origin; it begins again where that ends")
        self._tell(link, as_of(superblock, self._peer.received), is_whole=False)

    def _tell(self, link: "Link", superblock: Superblock, is_whole: bool) -> None:
        link.write(superblock_format.encode(told(superblock)), 0, durably=True)
        self._sent.append(Sent(superblock=told(superblock), is_whole=is_whole))
        self._is_telling = True
        if is_whole:
            self._told = superblock.sequence

    def _tell_standing(self, link: "Link") -> None:
        """What the peer needs to know when somebody has it take over, if that has changed."""
        state = self._peer.is_complete, self._peers.may_go_on
        if state == self._told_standing and not self._is_safe_due():
            return
        if self.filler:
            self._told_safe, self._safe_told_at = self._safe(), time.monotonic()
            self._told_committed, self._told_everywhere = self._line.committed, self._peers.everywhere()
            self._has_news = True
        link.write(encode_standing(self._standing()), 0, durably=False)
        relies_on_us = state == (True, False)
        self._sent.append(Sent(lets_go=not relies_on_us))
        self._told_standing, self._relies_on_us = state, self._relies_on_us or relies_on_us

    def _is_safe_due(self) -> bool:
        """Whether the peer may destage further than it knows, and was not told so just now."""
        if self.filler is None or time.monotonic() - self._safe_told_at < self.report_seconds:
            return False
        return self._safe() > self._told_safe

    def _note_answers(self, count: int) -> None:
        """So many of the oldest requests under way have been answered: one change for all of them."""
        peer = self._peer
        changes: dict[str, Any] = {"committed": peer.committed}
        for _ in range(count):
            changes |= self._meaning_of(self._sent.popleft())
        changes |= self._sign_of_health(changes["committed"], changes["committed"] > peer.committed)
        self._peers.note(peer, **changes)
        may_count = not self._is_on_trial and not self._room.problem and self.queue.is_in_step
        if not peer.counts and may_count and self._peers.let_in(peer):
            _log.warning("peer '%s' counts again: flushes wait for it as the parameters say", peer.name)
            self._events.note("peer-counts", peer=peer.name)
            self._set_goal()
        is_whole = peer.counts and not peer.is_inconsistent
        if peer.state != UP_TO_DATE and is_whole and self._has_reached_goal():
            self._peers.note(peer, state=UP_TO_DATE, is_complete=True)
            self._events.note("peer-up-to-date", peer=peer.name)

    def _sign_of_health(self, committed: int, made_durable: bool) -> dict[str, Any]:
        """What an answer changes in what is known of the peer, which has everything below `committed` durably."""
        if self._is_on_trial and not made_durable and committed < self._line.committed:
            return {}
        self._is_on_trial, self._reported = False, ""
        return {"problem": "", "silent_since": 0.0}

    def _meaning_of(self, sent: Sent) -> dict[str, Any]:
        """What an answer changes in what is known of the peer."""
        self._sent_bytes -= sent.byte_count
        if sent.lets_go:
            self._relies_on_us = self._told_standing == (True, False)
        if sent.is_report:
            return self._what_it_reports(standby_state.decode(memoryview(self._report.to_bytearray())))
        if sent.superblock:
            self._is_telling, self._known_history = False, sent.superblock.history
            place = max(self._peer.place, sent.superblock.oldest_place)
            return {"place": place, "sequence": sent.superblock.sequence} if sent.is_whole else {"place": place}
        if sent.is_durable:
            return {"received": sent.received, "committed": sent.received}
        return {"received": sent.received} if sent.received else {}

    def _what_it_reports(self, state: StandbyState) -> dict[str, Any]:
        """The same of a report. Raises FormatError."""
        self._report = None
        self._room.note(state)
        if self.filler:
            self.filler.hear(state)
        if self._peers.holds_up(self._peer):
            self._room.lacks()
            self._leave_out_if_due()
        destaged = 0 if state.is_inconsistent else state.destaged
        return {"place": state.oldest_place, "is_inconsistent": state.is_inconsistent, "destaged": destaged}

    def _set_goal(self) -> None:
        """Nothing that was answered without the peer is beyond it, nor what the origin has."""
        self._goal = self._line.committed, self._store.current.sequence

    def _has_reached_goal(self) -> bool:
        lsn, sequence = self._goal
        return self._peer.committed >= lsn and self._peer.sequence >= sequence

    def _leave_out_if_due(self) -> None:
        problem = self._room.problem
        if self._peers.leave_out(self._peer, is_stuck=bool(problem)):
            belief = (
                ". It believes that it has everything: it must not take over before it has been connected again"
                if self._relies_on_us else ""
            )  # fmt: skip
            _log.error(
                "peer '%s' is left out (peer-lost=continue): %s; from now on nothing waits for it, and the newest data "
                "is on one host less%s", self._peer.name,
                problem or f"it has been silent for {self._peers.timeout:.3g} s", belief,
            )  # fmt: skip
            self._events.note("peer-left-out", peer=self._peer.name)
            if self._peer.state == UP_TO_DATE:
                # It may answer yet.
                self._peers.note(self._peer, state=CATCHING_UP)

    def _note_problem(self, state: str, problem: str) -> None:
        """The connection has ended, or there is none."""
        peer, self._is_on_trial = self._peer, True
        if peer.state not in (CONNECTING, LOST, REFUSED):
            self._events.note("peer-lost", peer=peer.name, problem=problem)
        since = peer.silent_since or time.monotonic()
        self._peers.note(peer, state=state, problem=problem, silent_since=since)
        if problem != self._reported:
            self._reported = problem
            what = "the origin and requests at level peer wait for it" if peer.counts else "it is left out"
            _log.error("%s; it is tried again; %s", problem, what)
        self._leave_out_if_due()

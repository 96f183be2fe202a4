# SPDX-License-Identifier: BSD-3-Clause
"""What is known of each peer, and which of them count.

    a peer counts      requests wait for it, the origin does not get ahead of it, and its log space is not written over
    it is left out     after it was silent for peer-timeout, with peer-lost=continue
    it is let in       when it has all that the origin has or is about to get, and what is committed goes to it at once
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from wbcache_core.memory.cursors import NO_MARK, NumberLine

CONNECTING, CATCHING_UP, UP_TO_DATE, LOST, REFUSED = "connecting", "catching-up", "up-to-date", "lost", "refused"


class PeerRules(NamedTuple):
    """`names` are URIs of their exports `log`. One that was silent for `timeout` seconds may be left out, if the policy
    lets the server go on without it."""

    names: tuple[str, ...] = ()
    timeout: float = 10.0
    own_origins: bool = False
    """Each node has an origin of its own."""


class Peer:
    """The volume lock guards every field but `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = True
        """From the start: it may have been up to date."""
        self.received = self.committed = 1
        """LSNs that it has in memory, and durably, as it says itself."""
        self.sequence = 0
        """Of this server's newest superblock that it has durably."""
        self.place = 0
        """Its superblocks need its log from this position on."""
        self.state = CONNECTING
        self.problem = ""
        self.silent_since = time.monotonic()
        """0.0 while it answers."""
        self.is_complete = False
        """It has everything that was answered and announced, and counts since then: it may take over."""
        self.destaged = 0
        """What its own origin has durably, as it said last; 0 if that is not known, or it is inconsistent."""
        self.is_inconsistent = False
        """It has an origin of its own, which lacks something that its log does not have either."""
        self.identity = ""
        """Of the standby to which there is a connection; empty if there is none, or it does not say."""


class Peers:
    """The volume lock guards every field; methods take it, unless they say that it is held."""

    def __init__(
        self, rules: PeerRules, line: NumberLine, floor: Callable[[], int], current: Callable[[], tuple[int, int]]
    ) -> None:
        """`floor`, called with the lock held, is how far the origin has or is about to get; `current` the number and
        the `oldest_place` of the newest superblock."""
        self._line = line
        self._floor = floor
        self._current = current
        self._have_own_origins = rules.own_origins
        """Then the beginnings of their logs are their own business, too."""
        self.timeout = rules.timeout
        """In seconds."""
        self.all = tuple(map(Peer, rules.names))
        with line.lock:
            self._refresh()

    @property
    def may_go_on(self) -> bool:
        """Whether one that does not answer is left out. May be read without the lock."""
        return self._line.policy.may_go_on

    def everywhere(self) -> int:
        """The LSN below which everything is on the origins of all nodes, also of those that do not count."""
        with self._line.lock:
            return min([self._line.destaged, *(peer.destaged for peer in self.all)])

    def _refresh(self) -> None:
        """Lock held."""
        line = self._line
        counted = [peer for peer in self.all if peer.counts]
        committed = min((peer.committed for peer in counted), default=NO_MARK)
        if committed != line.peers_committed:
            # The origin may move on up to there.
            line.destage_wanted.notify()
        line.peers_received = min((peer.received for peer in counted), default=NO_MARK)
        line.peers_committed = committed
        line.peers_place = min((peer.place for peer in counted), default=NO_MARK)
        line.refresh_limits()
        line.moved.notify_all()

    def note(self, peer: Peer, **changes: Any) -> None:
        """Something about it has changed."""
        with self._line.lock:
            for name, value in changes.items():
                setattr(peer, name, value)
            self._refresh()

    def claim(self, peer: Peer, identity: str) -> Peer | None:
        """There is a connection to the standby of that identity, until release(): for this peer, unless another one has
        the same, which is returned then."""
        with self._line.lock:
            for other in self.all:
                if identity and other is not peer and other.identity == identity:
                    return other
            peer.identity = identity
            return None

    def release(self, peer: Peer) -> None:
        """Its connection has ended."""
        with self._line.lock:
            peer.identity = ""

    def note_silence(self, peer: Peer, since: float) -> None:
        """It has not answered since then, in seconds of time.monotonic(); 0.0 if it does."""
        with self._line.lock:
            peer.silent_since = since

    def let_in(self, peer: Peer) -> bool:
        """Count it from now on, if the origin is not ahead of it, and its superblocks are the newest."""
        with self._line.lock:
            sequence, place = self._current()
            if peer.counts or peer.committed < self._floor() or peer.sequence != sequence:
                return False
            if peer.place < place and not self._have_own_origins:
                return False
            peer.counts = True
            self._refresh()
            return True

    def holds_up(self, peer: Peer) -> bool:
        """Whether writers wait because its log has no room."""
        with self._line.lock:
            is_lowest = peer.counts and peer.place <= self._line.peers_place
            return is_lowest and self._line.room_waiters > 0 and peer.place < self._line.reclaimed_place

    def leave_out(self, peer: Peer, is_stuck: bool = False) -> bool:
        """No longer count it, if that is wanted and it has been silent for so long, or takes nothing any more."""
        with self._line.lock:
            is_silent = peer.silent_since and time.monotonic() - peer.silent_since >= self.timeout
            is_due = is_silent or is_stuck
            if not (is_due and peer.counts and self.may_go_on):
                return False
            peer.counts = peer.is_complete = False
            self._refresh()
            return True

    def facts(self) -> list[dict[str, Any]]:
        """Ready for JSON. Lock held."""
        now, line = time.monotonic(), self._line
        return [
            {
                "peer": peer.name, "state": peer.state, "counts": peer.counts, "received": peer.received,
                "committed": peer.committed, "destaged": peer.destaged,
                "behind": max(line.committed - peer.committed, 0),
                "silent_seconds": now - peer.silent_since if peer.silent_since else 0.0,
                "complete": peer.is_complete, "inconsistent": peer.is_inconsistent, "problem": peer.problem or None,
            }
            for peer in self.all
        ]  # fmt: skip

# SPDX-License-Identifier: BSD-3-Clause
"""Whether the log of a peer with an origin of its own has room, or gets it.

A peer that answers, and whose origin fails, would hold up the owner for good: it is no better than one that does not
answer. One whose origin is slow is waited for.
"""

import time

from wbcache_core.format.standby_state import StandbyState


class PeerRoom:
    """Used by the shipper's thread alone."""

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds."""
        self._timeout = timeout
        self._is_failing = False
        self._full_since: float | None = None
        """Since when there has been no room for the next segment, and the origin has failed."""
        self.problem = ""
        """Why nothing should wait for the peer any more; empty if it may."""

    def note(self, state: StandbyState) -> None:
        """What the peer has said of itself."""
        self._is_failing = state.is_failing
        if not state.is_failing:
            self._full_since, self.problem = None, ""

    def found(self) -> None:
        """There is room for the next segment."""
        self._full_since = None

    def lacks(self) -> None:
        """There is none."""
        now = time.monotonic()
        if not self._is_failing:
            return
        if self._full_since is None:
            self._full_since = now
        elif now - self._full_since > self._timeout:
            self.problem = f"its log is full, and its origin has been failing for {self._timeout:.3g} s"

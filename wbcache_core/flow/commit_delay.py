# SPDX-License-Identifier: BSD-3-Clause
"""Whether a commit waits for more flushes to share it, and how long.

Clients that flush again and again fall into two groups otherwise: while one
group's commit is under way the other one waits, and each client gets every
second commit. If those who were served last time come back within the time that
a commit takes, one commit for all of them is better. PostgreSQL has
`commit_delay` for this. Here a commit waits only if others have just been seen
to flush too, and less and less often if they do not come.
"""

from wbcache_core.threads import Turn

_MOST_S = 0.01
"""A commit never waits longer."""
_DOUBT, _MOST_DOUBT = 2, 7
"""What an attempt that failed counts against one that succeeded, and the most."""


class CommitDelay:
    """All fields are guarded by the lock that the caller holds for every method but wait()."""

    def __init__(self) -> None:
        self._company = 0
        """Requests that the last commit served, and that waited when it ended."""
        self._pause = 0.0
        self._missing = 0
        """How many waiters the leader wants; 0 if it does not wait for any."""
        self._doubt = self._skips = 0
        """Grows when not all came, and becomes less when they did; and commits until the next attempt."""
        self._is_complete = Turn()
        """Given when all have come."""

    def note_commit(self, served: int, waiting: int, seconds: float) -> None:
        """By the leader: a commit that took so long has ended."""
        self._company = served + waiting
        self._pause = min(seconds, _MOST_S)

    def begin(self, waiting: int) -> bool:
        """By the leader, before its commit: whether to wait(), given how many wait already."""
        missing = self._company - 1 - waiting
        if missing <= 0:
            return False
        if self._skips:
            self._skips -= 1
            return False
        self._missing = missing + waiting
        return True

    def note_waiter(self, waiting: int) -> None:
        """One more waits; so many now."""
        if self._missing and waiting >= self._missing:
            self._missing = 0
            self._doubt = max(self._doubt - 1, 0)
            self._is_complete.give()

    def wait(self) -> None:
        """By the leader, after begin(), without the lock: until all have come, or for as long as it may pay."""
        self._is_complete.wait(self._pause)

    def end(self) -> None:
        """By the leader, after wait()."""
        if self._missing:
            self._missing = 0
            self._doubt = min(self._doubt + _DOUBT, _MOST_DOUBT)
            self._skips = 1 << self._doubt
        else:
            # They may have come when it had just stopped waiting.
            self._is_complete.wait(0)

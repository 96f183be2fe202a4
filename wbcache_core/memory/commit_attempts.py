# SPDX-License-Identifier: BSD-3-Clause
"""Numbered attempts to commit: a request fails only because of an attempt that began after it arrived.

After a failed write to the log it is known what is durable, so the attempt is
repeated: at once for requests that wait, and otherwise after pauses.
"""

from wbcache_core.errors import CommitFailedError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class CommitAttempts:
    """`begun` is written by the leader of a commit alone; the volume lock guards all other fields. Requests that wait
    for the leader read `failed` and `error` without it: the leader has changed them before it wakes anybody."""

    __slots__ = ("_pause", "begun", "error", "failed", "retry_at", "wanted")

    def __init__(self) -> None:
        self.begun = 0
        """Number of the last attempt; requests note it when they arrive."""
        self.failed = 0
        """Number of the last attempt that failed."""
        self.error: CommitFailedError | None = None
        """Why the last attempt failed; None if it did not."""
        self.wanted = 0
        """A writer waits for the attempt with this number to begin."""
        self.retry_at = 0.0
        """There is no attempt in the background before this, in seconds of time.monotonic()."""
        self._pause = 0.0

    def note_failure(self, error: CommitFailedError, now: float) -> None:
        """The last attempt failed. Lock held."""
        self.failed, self.error = self.begun, error
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.retry_at = now + self._pause

    def note_success(self) -> None:
        """The last attempt succeeded. Lock held."""
        self.error = None
        self.retry_at = self._pause = 0.0

    def raise_if_failed_since(self, begun: int) -> None:
        """Raises CommitFailedError if the last attempt failed and began later: a new one for the caller's thread."""
        error = self.error
        if error and self.failed > begun:
            raise CommitFailedError(str(error), error.errno_value)

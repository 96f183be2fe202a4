# SPDX-License-Identifier: BSD-3-Clause
"""Quiescing a running volume: changes wait, and everything acknowledged is in the log.

For a moment in which nothing may change: a snapshot of the devices below, or a
restart of which clients notice nothing but a pause.
"""

from wbcache_core.errors import StoppedError
from wbcache_core.flow.committer import Committer
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.server.history import Facts


class Quiesce:
    """Has no state of its own: `NumberLine.quiesced` is all there is."""

    def __init__(self, line: NumberLine, committer: Committer) -> None:
        self._line = line
        self._committer = committer

    def begin(self) -> Facts:
        """Have writes, trims and zeroes wait from now on, and return when what was acknowledged is durable in the log.

        Requests that wait do not fail while the volume is quiesced. Reads, and flushes of what was acknowledged, go
        on, and so does destaging. Idempotent. Raises StoppedError, and what a commit raises: then nothing waits.
        """
        self._switch(True)
        try:
            self._committer.commit_all()
        except BaseException:
            self._switch(False)
            raise
        return self.facts()

    def end(self) -> Facts:
        """Let everything go on. Idempotent. Raises StoppedError."""
        self._switch(False)
        return self.facts()

    def facts(self) -> Facts:
        """Ready for JSON."""
        with self._line.lock:
            is_quiesced = self._line.quiesced
            # Those who go on may not have noticed yet.
            return {"quiesced": is_quiesced, "waiting": self._line.quiesced_waiters if is_quiesced else 0}

    def _switch(self, is_wanted: bool) -> None:
        line = self._line
        with line.lock:
            if line.stopping:
                raise StoppedError("the server is shutting down")
            line.quiesced = is_wanted
            line.refresh_limits()
            line.moved.notify_all()

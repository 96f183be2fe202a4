# SPDX-License-Identifier: BSD-3-Clause
"""The threads that move the cursors of a line: they start together or not at all, and end together."""

from wbcache_core.flow.committer import Committer
from wbcache_core.flow.destager import Destager
from wbcache_core.flow.ring_keeper import RingKeeper
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.shipping.shipping import Shipping
from wbcache_core.threads import StartTogether


class Movers:
    """For one thread at a time."""

    def __init__(
        self, line: NumberLine, committer: Committer, destager: Destager, keeper: RingKeeper | None,
        shipping: Shipping,
    ) -> None:  # fmt: skip
        self._line = line
        self._committer = committer
        self._destager = destager
        self._keeper = keeper
        self._shipping = shipping

    def start(self) -> None:
        """Start all and admit writers, or nothing: an error leaves everything as it was. Raises NoThreadError."""
        line, together = self._line, StartTogether()
        try:
            if self._keeper:
                self._keeper.start(together)
            self._committer.start(together)
            self._destager.start(together)
            self._shipping.start(together)
            line.admit_writers()
            together.run()
        except BaseException:
            # None has done anything yet. The next attempt gets its own threads.
            with line.lock:
                line.writable, line.limit, line.soft_limit = False, 0, 0
            together.give_up()
            raise

    def join(self) -> None:
        """Wait for all but the shipping, which has to send their last superblock; the line has been stopped."""
        # First the one that may still have something committed.
        self._destager.join()
        self._committer.join()
        if self._keeper:
            self._keeper.join()

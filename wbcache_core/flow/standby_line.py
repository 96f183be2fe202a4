# SPDX-License-Identifier: BSD-3-Clause
"""The log of a standby as those see it who follow it to the origin of this node, or keep its past."""

from collections import deque

from wbcache_core.format.superblock import Superblock
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.memory.policy import Policy


class StandbyLine:
    """As a NumberLine, of a log that is not blank. The log's lock guards it, and is held by whoever reads a field."""

    draining = False
    origin_target = 0

    def __init__(self, log: StandbyLog, policy: Policy) -> None:
        self._log = log
        self.lock = log.lock
        self.destage_wanted = self.moved = log.destage_wanted
        self.policy = policy
        self.carried: deque[tuple[int, int]] = deque()
        """A standby carries nothing."""

    @property
    def _superblock(self) -> Superblock:
        superblock = self._log.superblock
        assert superblock
        return superblock

    @property
    def data_pages(self) -> int:
        return self._superblock.data_pages

    @property
    def committed(self) -> int:
        """Where the log ends: what the origin gets is durable in it first."""
        return self._log.copy.head

    @property
    def destaged(self) -> int:
        return self._superblock.destaged

    @property
    def destaged_place(self) -> int:
        return self._superblock.destaged_place

    @property
    def reclaimed_place(self) -> int:
        return self._superblock.oldest_place

    @property
    def peers_committed(self) -> int:
        return self._log.safe

    @property
    def dirty_pages(self) -> int:
        return self._log.copy.end_place - self.destaged_place

    @property
    def is_origin_awaited(self) -> bool:
        """Soon the owner waits for room here."""
        return self._log.copy.is_short_of_room

    @property
    def room_waiters(self) -> int:
        return int(self.is_origin_awaited)

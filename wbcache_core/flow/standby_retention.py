# SPDX-License-Identifier: BSD-3-Clause
"""How far the origin of a standby may move on: what the owner lets it, and what its own past holds back.

Snapshots that are open here and `history=` give way as they do at an owner, when this log has no more room. Tags do
not: they are the owner's, who ends them.
"""

import logging

from wbcache_core import clock
from wbcache_core.clock import Reading, elapsed_ns
from wbcache_core.flow.retention import Pins
from wbcache_core.flow.standby_line import StandbyLine
from wbcache_core.format.superblock import Superblock, Tag
from wbcache_core.log.hot_log import HotLog
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.memory.moments import describe
from wbcache_core.memory.policy import Policy
from wbcache_core.memory.timeline import Timeline

_log = logging.getLogger("wbcache")


class _OwnersClocks:
    """What the clocks of the owner say now, as far as this machine can know. StandbyLog's lock guards the fields."""

    def __init__(self, times: Timeline) -> None:
        self._times = times
        self._newest: Reading | None = None
        self._seen = clock.read()
        """When `_newest` was seen here."""

    def read(self) -> Reading:
        """On another machine: at its newest commit, and as much later as has passed here since that was seen, which is
        never too much. To be called soon after each commit."""
        newest, now = self._times.newest, clock.read()
        if newest is None or newest.boot == now.boot:
            return now
        if newest != self._newest:
            self._newest, self._seen = newest, now
        passed_ns = elapsed_ns(self._seen, now) or 0
        return newest._replace(wall_ns=newest.wall_ns + passed_ns, boot_ns=newest.boot_ns + passed_ns)


class StandbyRetention:
    """The log's lock guards every field; callers of every method hold it. The log is not blank, unless a method says
    otherwise."""

    def __init__(self, log: StandbyLog, policy: Policy) -> None:
        self._log = log
        self.line = StandbyLine(log, policy)
        self._pins: Pins | None = None
        self._hot: HotLog | None = None
        """`_pins` are of this one."""

    def of(self, superblock: Superblock, hot: HotLog) -> Pins:
        """The pins of the log as it is. Those of what it was before it was cut off, or has begun anew, are ended."""
        floor = max(superblock.destaged, superblock.batch_end)
        if self._pins is None or self._hot is not hot:
            if self._pins:
                self._pins.end_snapshots()
                # Nobody has these pins any more.
                self.tell_ended()
            now = _OwnersClocks(hot.covered.generations.times).read
            self._pins, self._hot = Pins(self.line, hot.covered, floor, superblock.tags, now), hot
        self._pins.follow(floor, superblock.tags)
        return self._pins

    def limit(self, superblock: Superblock, hot: HotLog) -> int:
        """The end of a segment beyond which the next batch must not go; not above `destaged` if there can be no batch
        now."""
        pins = self.of(superblock, hot)
        if superblock.is_inconsistent:
            # What is being filled is no state of the volume before its end: there is no past that it could hold back.
            if pins.snapshots:
                pins.end_snapshots()
            return min(self._log.safe, self._log.copy.head)
        return min([pins.limit(), *(tag.end_lsn for tag in pins.tags)])

    def seconds_until_more(self) -> float:
        """How long that stays as it is if nothing comes; infinity if for ever. The log may be blank."""
        return self._pins.seconds_until_more() if self._pins and self._log.superblock else float("inf")

    def pass_to(self, end: int) -> None:
        """The origin is going to move on to `end`: end whatever is below."""
        if self._pins:
            self._pins.pass_to(end)

    def tell_ended(self) -> None:
        """Say which snapshots have ended since the last call."""
        for pin in self._pins.take_ended() if self._pins else ():
            if not isinstance(pin, Tag):
                _log.warning(
                    "the snapshot of %s that was open at this standby has ended: its log needed the room, or has been "
                    "cut off", describe(pin.generation),
                )  # fmt: skip

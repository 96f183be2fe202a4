# SPDX-License-Identifier: BSD-3-Clause
"""A server in its role: the owner of a volume, or a standby, until that is promoted.

    Node(config) ... promote() ... -> stop()
"""

import copy
import logging
import time
from collections.abc import Callable, Collection

from wbcache_core.errors import ControlError, NotOwnerError, WbcacheError
from wbcache_core.format import standby_state
from wbcache_core.format.standby_state import StandbyState
from wbcache_core.format.superblock import Superblock, Tag
from wbcache_core.memory.generations import Generation
from wbcache_core.pairing.pairing import ORIGIN_CHANGED, ORIGIN_MOVED, TAKE_OVER
from wbcache_core.server import status as status_facts
from wbcache_core.server.cache import Cache
from wbcache_core.server.config import IN_USE, OWNER, REFUSE, STANDBY, Config
from wbcache_core.server.history import Facts
from wbcache_core.server.replaceable import Replaceable
from wbcache_core.server.served import Served
from wbcache_core.server.standby import EXPORT, INCOMPLETE, OWNER_ALIVE, LogExport, Standby, check_reads_state
from wbcache_core.server.standby_past import PastExport
from wbcache_core.server.writers import Writers
from wbcache_core.volume.comparison import Comparison
from wbcache_core.volume.snapshot import Snapshot

_log = logging.getLogger("wbcache")

MOMENT = "@"
"""The name of an export that is a past moment: this, and WHEN; or of what changed from A to B: this, and A..B."""
PROMOTE_WORDS = (OWNER_ALIVE, INCOMPLETE, ORIGIN_CHANGED, ORIGIN_MOVED)


class TakenLogExport:
    """The export `log` of a standby that has taken over: the former owner reads there that it is the former one."""

    description = "the log of a standby that has taken over"

    def __init__(self, superblock: Superblock, log_bytes: int) -> None:
        self.size = log_bytes
        self._state = StandbyState(
            superblock.uuid, log_bytes, superblock.log_bytes, superblock.origin_bytes, superblock.destaged,
            superblock.destaged_place, superblock.destaged_previous, superblock.destaged, superblock.destaged_place,
            superblock.destaged, superblock.destaged, superblock.epoch, superblock.history,
        )  # fmt: skip

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """The state page: the epoch counts. Raises OutOfRangeError."""
        check_reads_state(buffer, offset)
        buffer[:] = standby_state.encode(self._state)

    def write(self, *_: object, **__: object) -> None:
        """Raises NotOwnerError."""
        raise NotOwnerError(f"this server has taken over the volume in epoch {self._state.epoch}")

    def flush(self) -> None:
        """Raises NotOwnerError."""
        self.write()

    def close(self) -> None:
        """The connection has ended."""


class Node(Replaceable[Served | Standby]):
    """`_replacing` is held by promote(), which alone writes `writers` and `_taken_log`, before it replaces `now`."""

    def __init__(self, config: Config, may_spawn: bool = False) -> None:
        """As of Standby and Served. Raises WbcacheError."""
        self._config = config
        self._may_spawn = may_spawn
        super().__init__(Standby(config) if config.role == STANDBY else Served(config, may_spawn=may_spawn))
        self._taken_log: TakenLogExport | None = None
        self.writers = Writers(self.now) if isinstance(self.now, Served) else None
        """None for a standby."""

    @property
    def served(self) -> Served | None:
        """What clients are served; None for a standby."""
        now = self.now
        return now if isinstance(now, Served) else None

    @property
    def log_level(self) -> int:
        """What is at least so important is said to the log."""
        now = self.now
        return (now.now if isinstance(now, Served) else now).settings.log_level

    def open_log(self, name: str, is_exposed: Callable[[], bool]) -> LogExport | TakenLogExport | None:
        """What a connection of the owner gets; None if that name means something else. Raises ExportNameError,
        ExposedError."""
        now = self.now
        if name.startswith(MOMENT):
            return None
        if isinstance(now, Standby):
            return now.open_export(name, is_exposed())
        return self._taken_log if name == EXPORT else None

    def open_past(
        self, name: str, is_exposed: Callable[[], bool]
    ) -> Snapshot | Comparison | PastExport:  # fmt: skip
        """What the export @name shows. Raises as Snapshots.open_export(), ExportNameError, ExposedError."""
        now = self.now
        return now.open_past(name, is_exposed()) if isinstance(now, Standby) else now.now.open_export(name)

    def window_ends(self) -> tuple[Generation | None, Generation | None, tuple[Tag, ...]]:
        """The oldest and the newest moment that can be opened now, None if there is none, and the tags."""
        now = self.now
        if isinstance(now, Served):
            return now.now.window_ends()
        return now.past.window_ends() if now.has_past else (None, None, ())

    def promote(self, force: Collection[str]) -> Facts:
        """Have a standby take over; returns what was done. For one thread at a time.

        Raises ControlError if it may not, or only with a word that is not in `force`, and what a start of an owner
        raises; then it is a standby as before.
        """
        unknown = [word for word in force if word not in PROMOTE_WORDS]
        if unknown:
            raise ControlError(f"'{unknown[0]}' is not one of {', '.join(PROMOTE_WORDS)}")
        with self._replacing:
            self.check_not_stopping()
            standby = self.now
            if not isinstance(standby, Standby):
                raise ControlError("this server is the owner of the volume already")
            standby.check_take(force)
            started = time.monotonic()
            cache = self._take_over(standby, force)
            seconds = time.monotonic() - started
        superblock = cache.newest_superblock
        switch = superblock.history[-1]
        _log.warning(
            "this standby has taken over the volume in epoch %s, from LSN %d on, in %.3f s",
            superblock.epoch, switch.first_lsn, seconds,
        )  # fmt: skip
        cache.events.note("promoted", epoch=superblock.epoch.number, lsn=switch.first_lsn)
        return {**status_facts.epochs(superblock), "lsn": switch.first_lsn, "seconds": seconds}

    def _take_over(self, standby: Standby, force: Collection[str]) -> Cache:
        """`_replacing` held. Raises the same as promote()."""
        config = copy.copy(self._config)
        config.role, config.plain_tcp = OWNER, REFUSE
        config.force = (config.force & {IN_USE}) | {TAKE_OVER} | (set(force) & {ORIGIN_CHANGED, ORIGIN_MOVED})
        served, epoch = None, standby.epoch
        try:
            device, taken = standby.take()
            size = device.size
            served = Served(config, None, device, self._may_spawn, taken=taken)
            served.activate()
            cache = served.now
            assert isinstance(cache, Cache)
            self._taken_log, self.writers = TakenLogExport(cache.newest_superblock, size), Writers(served)
            self._put(served)
            return cache
        except BaseException as error:
            if served:
                served.stop()
            _go_on(standby)
            if isinstance(error, WbcacheError) and standby.epoch != epoch:
                raise ControlError(
                    f"{error}; the log has the new epoch already: if the former owner is alive, it stops when it "
                    "reaches this server; repeat wbcache promote"
                ) from None
            raise

    def metrics(self) -> bytes:
        """The status for Prometheus."""
        return self.now.metrics()


def _go_on(standby: Standby) -> None:
    """Never raises."""
    try:
        standby.go_on()
    except WbcacheError as error:
        _log.error("this server takes nothing from the owner until it is started again: %s", error)

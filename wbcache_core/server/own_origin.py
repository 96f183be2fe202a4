# SPDX-License-Identifier: BSD-3-Clause
"""The origin that a standby has of its own: opened, compared with the log, and destaged to."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from wbcache_core.device.device import Device
from wbcache_core.device.origin import open_origin
from wbcache_core.errors import ConfigError, ReadOnlyError, WrongPairError
from wbcache_core.flow.standby_destager import StandbyDestager
from wbcache_core.flow.standby_retention import StandbyRetention
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.hot_log import HotLog
from wbcache_core.log.shipped_superblock import OwnOrigin
from wbcache_core.log.standby_log import StandbyLog
from wbcache_core.memory.policy import Policy
from wbcache_core.pairing import pairing
from wbcache_core.pairing.mark import DIRTY, OriginSide
from wbcache_core.server.config import IN_USE, Config
from wbcache_core.server.standby_past import StandbyPast
from wbcache_core.units import pages_of

_log = logging.getLogger("wbcache")


class StandbyOrigin:
    """`_lock` guards `_destager`; nothing that takes it is called while the log's lock is held."""

    def __init__(self, config: Config, log_path: str) -> None:
        """Open and lock the origin. Raises ConfigError, DeviceError, ReadOnlyError."""
        self._config = config
        self._log_path = log_path
        self._lock = threading.Lock()
        self._destager: StandbyDestager | None = None
        self._follow: Callable[[], StandbyDestager] | None = None
        self.past: StandbyPast | None = None
        """follow() sets both."""
        self.device: Device = open_origin(
            config.origin, config.destage_depth, config.nbd_times, beside_writers=IN_USE in config.force
        )
        with ExitStack() as stack:
            stack.callback(self.device.close)
            if not self.device.writable:
                raise ReadOnlyError(f"origin '{self.device.name}' cannot be written")
            if self.device.size == 0:
                raise ConfigError(f"origin '{self.device.name}' has a size of 0 bytes; there is nothing to fill")
            self._side = OriginSide.of(self.device)
            stack.pop_all()

    @property
    def facts(self) -> OwnOrigin:
        """What superblocks say of it."""
        return OwnOrigin(self.device.name, self.device.size, self._side.facts, IN_USE in self._config.force)

    def check(self, superblock: Superblock | None, hot: HotLog | None, log: Device) -> None:
        """Whether it is the one that the log was destaged to, and as that left it. Raises OtherLogError,
        WrongPairError, ConfigError, DeviceError."""
        force = self._config.force
        pairing.check_mark(self._side, superblock.uuid if superblock else None, self._log_path, force)
        if superblock is None or hot is None:
            return
        if superblock.is_copy and not superblock.has_own_origins:
            raise ConfigError(
                f"log '{log.name}' is of a standby on a shared origin, and this one was started with origins=own: "
                "start it with origins=shared; or, to have the origin of this host filled, add force=discard-log"
            )
        pairing.check_size(superblock, self.device, log)
        if superblock.is_inconsistent:
            pairing.check_identity(superblock, self._side, log, force)
            return
        dirty = hot.head > superblock.destaged
        if pairing.is_origin_changed(superblock, self._side, self.device, log, hot.locations, dirty, force):
            if pairing.ORIGIN_CHANGED not in force:
                raise WrongPairError(
                    f"origin '{self.device.name}' has changed since this standby last wrote to it, so it is not the "
                    "volume any more; to have it filled again, add force=discard-log; nothing has been changed"
                )

    def follow(self, log: StandbyLog, log_device: Device, policy: Policy) -> None:
        """That is the log, which check() has seen."""
        retention = StandbyRetention(log, policy)
        self.past = StandbyPast(log, log_device, self.device, retention)
        self._follow = lambda: StandbyDestager(
            log, log_device, self.device, retention, lambda volume: self._side.put(volume, self._log_path, DIRTY)
        )

    def start(self) -> None:
        """Destage from now on. Raises NoThreadError. Idempotent."""
        with self._lock:
            if self._destager:
                return
            assert self._follow
            destager = self._follow()
            destager.start()
            self._destager = destager

    @property
    def destager(self) -> StandbyDestager | None:
        """None before the owner has connected."""
        return self._destager

    def interrupt(self) -> None:
        """The server is about to stop: nothing waits for an origin that does not answer."""
        self.device.interrupt()

    def close(self) -> None:
        """End destaging, and close the origin. Idempotent."""
        if self.past:
            # Before the interruption: a read that fails for that has to know why.
            self.past.end()
        self.device.interrupt()
        if self.past:
            self.past.close()
        with self._lock:
            if self._destager:
                self._destager.stop()
        self.device.close()

    def facts_of(self, superblock: Superblock | None) -> dict[str, object]:
        """Ready for JSON."""
        filled = superblock.fill.filled if superblock and superblock.is_inconsistent else None
        if self._destager and filled is not None:
            filled = self._destager.filled
        return {
            "origin": self.device.name, "consistent": bool(superblock) and filled is None, "filled_blocks": filled,
            "blocks": pages_of(self.device.size),
        }  # fmt: skip

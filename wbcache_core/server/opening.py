# SPDX-License-Identifier: BSD-3-Clause
"""Opens origin and log, and finds out what they hold and whether they belong together. Writes nothing."""

import logging
import time
import uuid
from contextlib import ExitStack
from typing import NamedTuple

from wbcache_core.device.device import Device
from wbcache_core.device.file_device import FileDevice
from wbcache_core.device.log_file import LogFile
from wbcache_core.device.origin import open_origin
from wbcache_core.errors import ConfigError, LogRefusedError
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.hot_log import Taken
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.pairing.pairing import DISCARD_LOG
from wbcache_core.pairing.recovery import JoinRing, RecoveredPair, recover_pair
from wbcache_core.server.config import IN_USE, Config
from wbcache_core.units import PAGE_BYTES

_log = logging.getLogger("wbcache")


class Joining(NamedTuple):
    """A log that is attached to an origin that clients are using: it may hold nothing that the origin lacks, and past
    moments that it has are gone."""

    formats: bool
    """Whatever it holds is given up."""
    volume: bytes | None = None
    """It is the log of this volume, made just now, with everything that the origin lacks."""


class OpenedPair(NamedTuple):
    """`superblock` is the one to continue from, or, for a log that is not formatted yet, what is known of its first
    one."""

    origin: Device
    side: OriginSide
    log: Device
    superblock: Superblock
    recovered: RecoveredPair | None
    """None for a log that is not formatted yet."""
    may_be_under_way: bool
    """The log announces a batch, or may have done so in a part that is damaged or discarded."""
    claimed_at: float
    """In seconds of time.monotonic(): whoever had the log before had ended by then."""

    def close(self) -> None:
        """Close both devices."""
        self.origin.close()
        self.log.close()

    def joined(self, joining: Joining) -> "OpenedPair":
        """As it counts for an origin in use. Raises LogRefusedError."""
        pair = self.recovered
        if pair is None or pair.superblock.uuid == joining.volume:
            return self
        if joining.formats:
            _log.warning("formatting log '%s' anew, as asked", self.log.name)
            return self._replace(recovered=None, superblock=blank_superblock(self.origin, self.side, self.log.size))
        if pair.is_dirty:
            raise LogRefusedError(
                f"log '{self.log.name}' holds data that origin '{self.origin.name}' lacks, and the origin has been "
                "written without it: that data would overwrite what is newer; nothing has been changed; name another "
                "log, or, to give up what this one holds, add --format"
            )
        # The samples that are compared can miss a change.
        superblock = pair.superblock.with_changes(samples=fingerprint.UNKNOWN)
        return self._replace(
            recovered=pair._replace(superblock=superblock, samples_are_stale=True, past_is_gone=True)
        )  # fmt: skip


def open_pair(
    config: Config, origin: Device | None, log: Device | None, join_ring: JoinRing, joining: Joining | None = None,
    taken: Taken | None = None,
) -> OpenedPair:  # fmt: skip
    """Devices that are passed in are used, and closed after an error, instead of those that config names; but not the
    origin that a log joins. `taken` is what a standby knows of the log. Raises WbcacheError."""
    with ExitStack() as stack:
        for given in (None if joining else origin, log):
            if given:
                stack.callback(given.close)
        forced = IN_USE in config.force
        if not origin:
            origin = open_origin(config.origin, config.destage_depth, config.nbd_times, beside_writers=forced)
            stack.callback(origin.close)
        if taken or not log:
            check_distinct(config, origin)
        if not log:
            log = LogFile(config.log, forced)
            stack.callback(log.close)
        opened = _look(config, origin, log, join_ring, taken)
        if joining:
            opened = opened.joined(joining)
        stack.pop_all()
        return opened


def check_distinct(config: Config, origin: Device) -> None:
    """Raises ConfigError if the log is the origin."""
    if isinstance(origin, FileDevice) and origin.is_file(config.log):
        raise ConfigError(f"origin and log are the same: '{config.origin}' and '{config.log}'; name another log")


def _look(
    config: Config, origin: Device, log: Device, join_ring: JoinRing, taken: Taken | None
) -> OpenedPair:  # fmt: skip
    """Raises LogRefusedError, DeviceError."""
    claimed_at = time.monotonic()
    log_bytes = log.size or config.log_size
    pairing.check_sizes(origin, log if log.size else None, log_bytes)
    side = OriginSide.of(origin)
    if origin.writable and not origin.can_trim:
        _log.info("origin '%s' cannot deallocate blocks: clients are not offered trim", origin.name)
    pair, may_be_under_way = None, False
    if log.size:
        try:
            pair = recover_pair(log, origin, side, config.force, join_ring, taken)
        except LogRefusedError as error:
            if DISCARD_LOG not in config.force:
                raise
            _log.warning("discarding what the log holds, as forced: %s", error)
            may_be_under_way = True
    pairing.check_mark(side, pair.superblock.uuid if pair else None, config.log, config.force)
    if pair is None:
        blank = blank_superblock(origin, side, log_bytes)
        return OpenedPair(origin, side, log, blank, None, may_be_under_way, claimed_at)
    superblock = pair.superblock
    may_be_under_way = None in pair.slots or superblock.batch_end > superblock.destaged
    return OpenedPair(origin, side, log, superblock, pair, may_be_under_way, claimed_at)


def blank_superblock(origin: Device, side: OriginSide, log_bytes: int) -> Superblock:
    """Of a log that is going to be formatted."""
    return Superblock(
        uuid=uuid.uuid4().bytes,
        sequence=1,
        log_bytes=log_bytes - log_bytes % PAGE_BYTES,
        origin_bytes=origin.size,
        origin_name=origin.name,
        samples=fingerprint.UNKNOWN,
        origin_facts=side.facts,
    )

# SPDX-License-Identifier: BSD-3-Clause
"""Makes a log ready for writes: creates it, formats it, or brings what recovery found up to date.

Each of these may fail at any step and is then called again, with the next
client. So none relies on what a previous attempt left, and a superblock whose
write failed is the one that is written again, never the other.
"""

import errno
import logging
from dataclasses import replace
from typing import Any

from wbcache_core import clock
from wbcache_core.clock import Reading
from wbcache_core.device.device import Device
from wbcache_core.device.log_file import LogFile, check_creatable
from wbcache_core.errors import DeviceError, ReadOnlyError
from wbcache_core.format.superblock import Superblock
from wbcache_core.log.epochs import new_epoch
from wbcache_core.log.geometry import LogEnd
from wbcache_core.log.superblocks import SuperblockStore
from wbcache_core.log.takeover import FoundData, take_over
from wbcache_core.memory.cursors import NumberLine
from wbcache_core.memory.record_index import CoveredLog
from wbcache_core.pairing import fingerprint, pairing
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.pairing.pairing import OTHER_LOG
from wbcache_core.pairing.recovery import RecoveredPair
from wbcache_core.server.config import Config
from wbcache_core.server.opening import Joining, OpenedPair, check_distinct, open_pair
from wbcache_core.server.ring_memory import RingMemory
from wbcache_core.units import format_size

_log = logging.getLogger("wbcache")


def make_room(log: Device, config: Config, origin: Device) -> None:
    """Create a log that is missing, and let an empty one grow. Raises as create_log() does, and ReadOnlyError."""
    if isinstance(log, LogFile) and not log.exists:
        create_log(log, config, origin)
    if not log.writable:
        raise ReadOnlyError(f"the volume is served read-only: log '{config.log}' cannot be written")
    if log.size == 0:
        log.grow(config.log_size)


def create_log(log: LogFile, config: Config, origin: Device) -> None:
    """The log that was missing at start. One that exists by now, from a previous attempt, is used if it is blank.
    Raises ConfigError, DeviceError, LogRefusedError."""
    is_new = log.create(config.log_size)
    try:
        check_distinct(config, origin)
        if not is_new and log.size and (log.size != config.log_size or pairing.read_log(log) is not None):
            raise DeviceError(
                f"log '{config.log}' has appeared since the server started, with {log.size} bytes, and others may "
                "have written to it: it has not been changed; start the server again", errno.EEXIST,
            )  # fmt: skip
    except BaseException:
        log.forget()
        raise


def open_joinable(config: Config, origin: Device, joining: Joining) -> OpenedPair:
    """Open a log for an origin whose mark names another one. Writes nothing. Raises what open_pair() does."""
    ring = RingMemory(is_shared_wanted=False)
    tried = replace(config, force=config.force | {OTHER_LOG})
    try:
        return open_pair(tried, origin, None, ring.join, joining)
    finally:
        ring.close(is_empty=False)


def check_joinable(config: Config, origin: Device, joining: Joining) -> None:
    """Whether this log could be attached once the one that the origin's mark names is detached. Writes nothing, and
    leaves nothing open. Raises what open_pair() does, DeviceError and ReadOnlyError if it cannot be made or written."""
    log = open_joinable(config, origin, joining).log
    try:
        if isinstance(log, LogFile) and not log.exists:
            check_creatable(config.log)
        elif not log.writable:
            raise ReadOnlyError(f"log '{config.log}' cannot be written")
    finally:
        log.close()


def prepare(
    log: Device,
    store: SuperblockStore,
    found: FoundData,
    line: NumberLine,
    pair: RecoveredPair | None,
    origin: Device,
    side: OriginSide,
    end: LogEnd,
    covered: CoveredLog,
) -> LogEnd:
    """Format a blank log, or see bring_up_to_date(); returns where the log continues. Raises DeviceError."""
    if pair:
        return bring_up_to_date(log, store, found, line, pair, origin, side, end, covered)
    now = format_blank(log, store, origin)
    with line.lock:
        # A previous attempt may have been interrupted in the middle of this.
        covered.generations.drop_below(store.current.destaged + 1)
        covered.generations.append(0, store.current.destaged, now)
    return end._replace(time=now, epoch=store.current.epoch)


def set_origins(store: SuperblockStore, are_own: bool) -> None:
    """Whether all nodes have one origin, or each its own: both superblocks say so. Raises DeviceError."""
    while any(slot and slot.has_own_origins != are_own for slot in store.slots):
        store.write(has_own_origins=are_own, regions_sum=0)


def format_blank(log: Device, store: SuperblockStore, origin: Device) -> Reading:
    """Format a log. Generation 0 is the origin as it is; returns the time of that. Raises DeviceError."""
    now = clock.read()
    store.format(without_content(store.current, origin, now))
    _log.info("formatted log '%s' of %s", log.name, format_size(store.current.log_bytes))
    return now


def without_content(blank: Superblock, origin: Device, now: Reading) -> Superblock:
    """What a log that is formatted says first, in its first epoch. Raises DeviceError."""
    epoch = new_epoch(blank, blank.destaged, blank.destaged_previous)
    return blank.with_changes(samples=fingerprint.take(origin), destaged_time_ns=now.wall_ns, **epoch)


def bring_up_to_date(
    log: Device,
    store: SuperblockStore,
    found: FoundData,
    line: NumberLine,
    pair: RecoveredPair,
    origin: Device,
    side: OriginSide,
    end: LogEnd,
    covered: CoveredLog,
) -> LogEnd:
    """Make what recovery found durable, and let both superblocks say it, in a new epoch; returns the end of the log,
    which was `end`.

    If the origin was written without this log, it is as it was at no commit: what it is now is a generation of its own,
    with a number that was not used before. Raises DeviceError, LogRefusedError.
    """
    changes: dict[str, Any] = {
        "origin_name": origin.name, "origin_facts": side.facts, "origin_bytes": origin.size, "is_copy": False,
    }  # fmt: skip
    if pair.samples_are_stale:
        changes["samples"] = fingerprint.take(origin)
    if pair.past_is_gone:
        changes |= {"batch_end": line.committed, "tags": (), "regions_sum": 0}
    is_new = pair.superblock.samples == fingerprint.UNKNOWN and line.head == line.destaged
    if is_new:
        end = end._replace(generation=end.generation + 1, time=clock.read())
        changes |= {"destaged_generation": end.generation, "destaged_time_ns": end.time.wall_ns}
    changes |= {"oldest": line.destaged, "oldest_place": line.destaged_place, "committed": line.committed}
    changes |= new_epoch(store.current, line.committed, end.previous, takes_over=store.current.is_copy)
    take_over(log, store, found, line.write_place, **changes)
    end = end._replace(epoch=store.current.epoch)
    if is_new:
        with line.lock:
            covered.generations.drop_below(line.committed + 1)
            covered.generations.append(end.generation, line.committed, end.time)
    return end

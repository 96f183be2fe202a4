# SPDX-License-Identifier: BSD-3-Clause
"""Whether a log is blank, ours, and belongs to this origin: everything that is refused before recovery, and why."""

import logging
import os
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from os.path import isfile
from uuid import UUID

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device, aligned_buffer
from wbcache_core.device.file_device import system_path
from wbcache_core.errors import (
    ConfigError,
    CopyError,
    DamagedLogError,
    ForeignLogError,
    OtherLogError,
    SuperblockError,
    WrongPairError,
)
from wbcache_core.format import origin_facts
from wbcache_core.format.segment import has_magic as is_descriptor
from wbcache_core.format.superblock import DATA_START, MAGIC, MIN_LOG_BYTES, SLOT_OFFSETS, Superblock
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.memory.block_map import LocationMap, entry_lsn
from wbcache_core.pairing import fingerprint
from wbcache_core.pairing.identity import real_path
from wbcache_core.pairing.mark import OriginSide
from wbcache_core.units import MIB, PAGE_BYTES, SECTOR_BYTES, format_size

_log = logging.getLogger("wbcache")

ORIGIN_CHANGED, ORIGIN_MOVED = "origin-changed", "origin-moved"
OTHER_LOG, DISCARD_LOG = "other-log", "discard-log"
TAKE_OVER = "take-over"
"""The words of `force=` that override what is refused here."""

_SCAN_BYTES = 4 * MIB
_END_BYTES = 32 * MIB
"""This much of either end of what may be data is read completely: it has partition tables, RAID and LVM labels, the
first superblock of any file system, and everything that libblkid looks for, except far copies of some."""
_SAMPLE_COUNT, _SAMPLE_BYTES = 1024, 64 * 1024
"""Number of pieces that are read between the ends, at equal distances: they find any data that occupies a thousandth of
the device in one piece."""
_DISCARD_HINT = "to throw away what the log holds and format it anew, add force=discard-log"


def check_sizes(origin: Device, log: Device | None, log_bytes: int) -> None:
    """Raises ConfigError for an origin or log whose size cannot be served, DamagedLogError for the remains of a log.

    `log_bytes` is what the log has or is going to have.
    """
    if origin.size == 0:
        raise ConfigError(f"origin '{origin.name}' has a size of 0 bytes; there is nothing to cache")
    if origin.size % SECTOR_BYTES:
        raise ConfigError(
            f"origin '{origin.name}' has {origin.size} bytes, which is not a multiple of {SECTOR_BYTES}; "
            "pad it (truncate -s %512) or name another"
        )
    if log_bytes < MIN_LOG_BYTES:
        name = log.name if log else "new log"
        if log and log.size >= PAGE_BYTES and newest(read_slots(log)):
            raise DamagedLogError(
                f"log '{name}' has {log_bytes} bytes and is the beginning of a larger one: it has been cut short; "
                "restore it, or remove it to give up what it held"
            )
        raise ConfigError(f"log '{name}' has {log_bytes} bytes; a log needs at least {format_size(MIN_LOG_BYTES)}")


def read_log(log: Device) -> list[Superblock | None] | None:
    """The superblock slots of a log, None if it is blank.

    Raises LogVersionError, SuperblockError, ForeignLogError, DamagedLogError (cut short), DeviceError.
    """
    slots = read_slots(log)
    superblock = newest(slots)
    if superblock is None:
        if _is_blank(log) or _is_half_formatted(log):
            return None
        if _was_ours(log):
            raise SuperblockError(
                f"both superblocks of log '{log.name}' are damaged, so it is not known what the origin lacks; "
                f"nothing has been changed; restore the log device, see what wbcache salvage finds, or, {_DISCARD_HINT}"
            )
        raise ForeignLogError(
            f"log '{log.name}' holds data that is not a wbcache log; nothing has been changed; "
            f"name another log, or blank all of it (blkdiscard -z, dd if=/dev/zero), or, {_DISCARD_HINT}"
        )
    if superblock.log_bytes > log.size:
        raise DamagedLogError(
            f"log '{log.name}' has {log.size} bytes and was made with {superblock.log_bytes}: it has been cut short; "
            f"restore it, or, {_DISCARD_HINT}"
        )
    return slots


def check_no_copy(superblock: Superblock, log: Device, force: Collection[str] = ()) -> None:
    """Raises CopyError for the log of a standby, unless it is to take over."""
    if not superblock.is_copy:
        return
    if superblock.is_inconsistent:
        raise CopyError(
            f"log '{log.name}' is of a standby whose origin was being filled: the two are not the volume yet; nothing "
            "has been changed; start it with role=standby and origins=own until it has been filled"
        )
    written = datetime.fromtimestamp(superblock.written_ns // 10**9, timezone.utc)
    if TAKE_OVER not in force:
        raise CopyError(
            f"log '{log.name}' is the copy that a standby keeps of volume {UUID(bytes=superblock.uuid)}, last noted "
            f"{written:%Y-%m-%d %H:%M:%S} UTC, with LSN {superblock.committed} committed; the owner of the volume "
            "may still be running, and may have answered for more than this log has; nothing has been changed; start "
            "it with role=standby; or, if the owner has stopped and will not come back by itself, start it as a server "
            "with force=take-over"
        )
    _log.warning(
        "log '%s' takes over, as forced: it was the copy of a standby until now, last noted %s UTC; the former owner "
        "must not be started again except as a standby", log.name, f"{written:%Y-%m-%d %H:%M:%S}",
    )  # fmt: skip


def _is_half_formatted(log: Device) -> bool:
    """Whether formatting was interrupted at the first superblock: only its page has data, and begins like one."""
    offset = SLOT_OFFSETS[1]
    page = bytearray(PAGE_BYTES)
    log.read_into(memoryview(page), offset)
    return page[: len(MAGIC)] == MAGIC and _is_blank(log, 0, offset) and _is_blank(log, offset + PAGE_BYTES)


def _is_blank(log: Device, begin: int = 0, end: int | None = None) -> bool:
    """Whether begin to end is zero, as far as it is read. Holes are not read.

    What may be data is read completely, except on a device that does not say where it has data: there, ends and
    samples.
    """
    buffer = aligned_buffer(_SCAN_BYTES)
    end = log.size if end is None else end
    extents = log.extents(begin, end - begin)
    # A device that tells holes from data, as files do, gives an exact answer with little to read.
    tells = len(extents) > 1 or any(zero for *_, zero in extents) or isfile(system_path(log.name))
    for start, length, _, zero in extents:
        if zero:
            continue
        for first, last in [(start, start + length)] if tells else _looked_at(start, start + length):
            if not _is_zero(log, first, last, buffer):
                return False
    return True


def _looked_at(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of a large device, as (begin, end), that are read to find out whether it is blank."""
    if end - begin <= 2 * _END_BYTES + _SAMPLE_COUNT * _SAMPLE_BYTES:
        yield begin, end
        return
    yield begin, begin + _END_BYTES
    yield end - _END_BYTES, end
    inner = end - begin - 2 * _END_BYTES
    for index in range(_SAMPLE_COUNT):
        # In whole pages, as O_DIRECT and disks with 4096-byte sectors require.
        offset = begin + _END_BYTES + inner * index // _SAMPLE_COUNT // PAGE_BYTES * PAGE_BYTES
        yield offset, offset + _SAMPLE_BYTES


def _is_zero(log: Device, begin: int, end: int, buffer: memoryview) -> bool:
    """Raises DeviceError."""
    for offset in range(begin, end, len(buffer)):
        view = buffer[: min(len(buffer), end - offset)]
        log.read_into(view, offset)
        if xxh3_64_intdigest(view) != xxh3_64_intdigest(bytes(len(view))):
            return False
    return True


def _was_ours(log: Device) -> bool:
    page = bytearray(PAGE_BYTES)
    for offset in SLOT_OFFSETS:
        log.read_into(memoryview(page), offset)
        if page[: len(MAGIC)] == MAGIC:
            return True
    log.read_into(memoryview(page), DATA_START)
    return is_descriptor(memoryview(page))


def check_size(superblock: Superblock, origin: Device, log: Device) -> None:
    """Raises WrongPairError if the origin is smaller than the one the log was made for. It may have grown."""
    if superblock.origin_bytes > origin.size:
        raise WrongPairError(
            f"log '{log.name}' belongs to origin '{superblock.origin_name}' of {superblock.origin_bytes} bytes, and "
            f"origin '{origin.name}' has only {origin.size}: the origin was resized or it is the wrong pair; nothing "
            f"has been changed; restore the old size; or, if it was made smaller on purpose, see what wbcache resize "
            f"says; or, {_DISCARD_HINT}"
        )


def check_mark(side: OriginSide, volume: bytes | None, log_name: str, force: Collection[str]) -> None:
    """Raises OtherLogError if the origin's mark says that a log other than this one holds data for it.

    `volume` is that of the log, None if it is blank, missing, or about to be formatted again.
    """
    mark = side.mark
    if mark is None or not mark.is_dirty or mark.volume == volume or OTHER_LOG in force:
        return
    if volume is None and DISCARD_LOG in force and real_path(mark.log) == real_path(log_name):
        return
    copied = origin_facts.differences(mark.facts, side.facts)
    whose = f"is a copy of '{mark.origin}', which" if copied else ""
    raise OtherLogError(
        f"origin '{side.name}' {whose or 'belongs to another log: it'} lacks data that log '{mark.log}' "
        f"(volume {UUID(bytes=mark.volume)}) holds, or held when its server was killed, and log '{log_name}' is "
        f"not that log; nothing has been changed; start it with log={mark.log}, or bring the origin up to date "
        f"(wbcache replay '{mark.log}' '{side.name}'); if that log is lost, or what it holds is to be given up, add "
        "force=other-log"
    )


def check_identity(superblock: Superblock, side: OriginSide, log: Device, force: Collection[str]) -> None:
    """Raises WrongPairError if the origin of a dirty log is not the one that the log recorded, or has since been served
    with another log."""
    mark, hint = side.mark, f"nothing has been changed; or, {_DISCARD_HINT}"
    if mark and mark.volume != superblock.uuid and not mark.is_dirty and ORIGIN_CHANGED not in force:
        raise WrongPairError(
            f"origin '{side.name}' was last written through another log, '{mark.log}' (volume "
            f"{UUID(bytes=mark.volume)}), while log '{log.name}' still holds data for it: the two have different "
            f"histories; to overwrite it with what this log holds, add force=origin-changed; {hint}"
        )
    told = origin_facts.differences(superblock.origin_facts, side.facts)
    if told and ORIGIN_MOVED not in force:
        raise WrongPairError(
            f"origin '{side.name}' is not the one that log '{log.name}' holds data for, '{superblock.origin_name}', "
            f"but a copy or twin of it, or a different one ({'; '.join(told)}); if it was moved or restored there on "
            f"purpose, and is as the log left it, add force=origin-moved; {hint}"
        )


def lacks(superblock: Superblock, locations: LocationMap, block: int) -> bool:
    """Whether the origin lacks what the log has of a block. The map may still have what is on the origin."""
    return entry_lsn(locations.get(block)) >= superblock.destaged


def check_rest_of_page(superblock: Superblock, origin: Device, log: Device, locations: LocationMap) -> None:
    """Raises WrongPairError for an origin that grew within a page and has data there, if the log holds that page.

    The log has zeros for what was beyond the end.
    """
    old_end = superblock.origin_bytes
    rest = min(-old_end % PAGE_BYTES, origin.size - old_end)
    if rest <= 0 or not lacks(superblock, locations, old_end // PAGE_BYTES):
        return
    found = bytearray(rest)
    origin.read_into(memoryview(found), old_end)
    if any(found):
        raise WrongPairError(
            f"origin '{origin.name}' has grown from {old_end} bytes, and the {rest} bytes from there on are not zero, "
            f"while log '{log.name}' holds the whole page that they are in; nothing has been changed; fill them with "
            f"zeros, or restore the old size until the log is drained (wbcache replay); or, {_DISCARD_HINT}"
        )


def is_origin_changed(
    superblock: Superblock, side: OriginSide, origin: Device, log: Device, locations: LocationMap, dirty: bool,
    force: Collection[str],
) -> bool:  # fmt: skip
    """Whether the origin is not as the log left it, if that can be accepted. `superblock` is as in the log.

    With a dirty log it cannot, unless forced; with a clean one nothing is lost as long as it is the same origin. Raises
    WrongPairError, DeviceError.
    """
    changed = fingerprint.differing_blocks(
        origin, superblock.samples, lambda block: lacks(superblock, locations, block), superblock.origin_bytes
    )
    if ORIGIN_CHANGED not in force and changed:
        where = ", ".join(str(block * PAGE_BYTES) for block in changed[:3])
        if dirty:
            raise WrongPairError(
                f"origin '{origin.name}' has changed behind its cache (at byte {where}) while log '{log.name}' still "
                "holds data for it: it was used without the cache, or it is the wrong pair; nothing has been changed; "
                f"to overwrite it with the log's data, add force=origin-changed; or, {_DISCARD_HINT}"
            )
        if not _is_same(superblock, side, origin):
            raise WrongPairError(
                f"log '{log.name}' belongs to another origin, '{superblock.origin_name}'; all its data is "
                f"on that origin, so nothing is lost: {_DISCARD_HINT}"
            )
    if dirty:
        check_identity(superblock, side, log, force)
        check_rest_of_page(superblock, origin, log, locations)
    return bool(changed)


def check_is_only_origin(superblock: Superblock, origin: Device, force: Collection[str]) -> None:
    """An origin that has changed is to be the volume from now on. Raises WrongPairError if other hosts have one that
    has not, unless forced."""
    if superblock.has_own_origins and ORIGIN_CHANGED not in force:
        raise WrongPairError(
            f"origin '{origin.name}' has changed since the cache last wrote to it, and the origins of the other hosts "
            "have not: nothing has been changed; to have the volume as it is here, start each of the others once with "
            "force=discard-log, and this one with force=origin-changed; otherwise promote another host"
        )


def _is_same(superblock: Superblock, side: OriginSide, origin: Device) -> bool:
    """Whether it is the origin that the log was made for, changed or not: by its identity, or by name."""
    recorded = superblock.origin_facts
    if recorded.is_told_from_twins and side.facts.is_told_from_twins:
        if not origin_facts.differences(recorded, side.facts):
            return True
    return os.path.basename(superblock.origin_name) == os.path.basename(origin.name)

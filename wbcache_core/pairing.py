# SPDX-License-Identifier: BSD-3-Clause
"""Whether a log is blank, ours, and this origin's: everything that is refused before recovery, and why."""

import os
from collections.abc import Iterator
from os.path import isfile

from xxhash import xxh3_64_intdigest

from wbcache_core import fingerprint
from wbcache_core.block_device import Device, aligned_buffer, system_path
from wbcache_core.errors import ConfigError, DamagedLogError, ForeignLogError, SuperblockError, WrongPairError
from wbcache_core.location_map import LocationMap
from wbcache_core.segment_format import has_magic as is_descriptor
from wbcache_core.superblock_format import DATA_START, MAGIC, MIN_LOG_BYTES, SLOT_OFFSETS, Superblock
from wbcache_core.superblock_store import newest, read_slots
from wbcache_core.units import MIB, PAGE_BYTES, SECTOR_BYTES, format_size

_SCAN_BYTES = 4 * MIB
_END_BYTES = 32 * MIB
"""So much of either end of what may be data is read to the last byte: partition tables, RAID and LVM labels, the first
superblock of any file system, and all that libblkid looks for, the far copies of some apart."""
_SAMPLE_COUNT, _SAMPLE_BYTES = 1024, 64 * 1024
"""Between the ends, so many pieces at equal distances: they find any data that takes a thousandth of the device in one
piece."""
_DISCARD_HINT = "to throw away what the log holds and format it anew, add force=discard-log"


def check_sizes(origin: Device, log: Device | None, log_bytes: int) -> None:
    """Raises ConfigError for an origin or log whose size cannot be served, DamagedLogError for what is left of a log.

    log_bytes is what the log has or is going to have.
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
    """The superblock slots of a log, None when it is blank.

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


def _is_half_formatted(log: Device) -> bool:
    """Whether formatting was cut off at the first superblock: only its page has data, and that begins as one."""
    offset = SLOT_OFFSETS[1]
    page = bytearray(PAGE_BYTES)
    log.read_into(memoryview(page), offset)
    return page[: len(MAGIC)] == MAGIC and _is_blank(log, 0, offset) and _is_blank(log, offset + PAGE_BYTES)


def _is_blank(log: Device, begin: int = 0, end: int | None = None) -> bool:
    """Whether begin to end is zero, wherever it is looked at. Holes are not read.

    What may be data is read whole, but of a device that does not say where it has any, only the ends and samples.
    """
    buffer = aligned_buffer(_SCAN_BYTES)
    end = log.size if end is None else end
    extents = log.extents(begin, end - begin)
    # Whoever can tell holes from data, as files do, is exact and has little to read.
    tells = len(extents) > 1 or any(zero for *_, zero in extents) or isfile(system_path(log.name))
    for start, length, _, zero in extents:
        if zero:
            continue
        for first, last in [(start, start + length)] if tells else _looked_at(start, start + length):
            if not _is_zero(log, first, last, buffer):
                return False
    return True


def _looked_at(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of a large device that are read to find out whether it is blank, with their ends."""
    if end - begin <= 2 * _END_BYTES + _SAMPLE_COUNT * _SAMPLE_BYTES:
        yield begin, end
        return
    yield begin, begin + _END_BYTES
    yield end - _END_BYTES, end
    inner = end - begin - 2 * _END_BYTES
    for index in range(_SAMPLE_COUNT):
        # In whole pages, as O_DIRECT and a disk of 4096-byte sectors want it.
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


def check_size_unchanged(superblock: Superblock, origin: Device, log: Device) -> None:
    """Raises WrongPairError when the log was made for an origin of another size."""
    if superblock.origin_bytes != origin.size:
        raise WrongPairError(
            f"log '{log.name}' belongs to origin '{superblock.origin_name}' of {superblock.origin_bytes} bytes, and "
            f"origin '{origin.name}' has {origin.size}: the origin was resized or it is the wrong pair; nothing has "
            f"been changed; bring back the old size, or, {_DISCARD_HINT}"
        )


def is_origin_changed(
    superblock: Superblock, origin: Device, log: Device, locations: LocationMap, dirty: bool, accept: bool
) -> bool:
    """Whether the origin is not as the log left it, where that may be accepted.

    With a dirty log it may not, unless `accept`; with a clean one nothing is
    lost as long as it is the same origin. Raises WrongPairError, DeviceError.
    """
    changed = fingerprint.differing_blocks(origin, superblock.samples, lambda block: bool(locations.get(block)))
    if not changed or accept:
        return bool(changed)
    where = ", ".join(str(block * PAGE_BYTES) for block in changed[:3])
    if dirty:
        raise WrongPairError(
            f"origin '{origin.name}' has changed behind its cache (at byte {where}) while log '{log.name}' still "
            "holds data for it: it was used without the cache, or it is the wrong pair; nothing has been changed; "
            f"to write the log's data over it all the same, add force=origin-changed; or, {_DISCARD_HINT}"
        )
    if os.path.basename(superblock.origin_name) != os.path.basename(origin.name):
        raise WrongPairError(
            f"log '{log.name}' belongs to another origin, '{superblock.origin_name}'; it holds no data that is "
            f"not there, so nothing is lost: {_DISCARD_HINT}"
        )
    return True

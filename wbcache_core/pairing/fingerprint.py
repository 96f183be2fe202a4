# SPDX-License-Identifier: BSD-3-Clause
"""A fingerprint of the origin: checksums of 32 sampled pages, kept in the superblock.

It shows whether somebody used the origin without its cache. Some samples are
where partition tables and file systems keep what changes at every mount; the
others are spread over the rest. A block that the log is going to overwrite may
differ.
"""

from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from wbcache_core.device.device import Device
from wbcache_core.format.superblock import SAMPLE_COUNT
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

# Page 0: partition table, or ext4 or xfs on the whole device; 16: btrfs (64 KiB); the same from 1 MiB on, where
# partitioning tools put the first partition; 8 and 264: 32 KiB into either, an LVM or GPT neighbourhood.
_WELL_KNOWN = (0, 1, 2, 3, 8, 16, 256, 257, 258, 264, 272)


UNKNOWN = (0,) * SAMPLE_COUNT
"""No page has this checksum: an origin that was written without the log counts as changed, wherever that was."""


def sampled_blocks(origin_bytes: int) -> list[int]:
    """SAMPLE_COUNT block numbers, which depend on the size alone; small origins repeat some."""
    pages = pages_of(origin_bytes)
    spread = SAMPLE_COUNT - len(_WELL_KNOWN)
    blocks = [min(block, pages - 1) for block in _WELL_KNOWN]
    return blocks + [(pages - 1) * (index + 1) // spread for index in range(spread)]


def sample_page(origin: Device, block: int, origin_bytes: int | None = None) -> int:
    """Checksum of one page, padded with zeros beyond the end, or beyond the former end. Raises DeviceError."""
    page = bytearray(PAGE_BYTES)
    offset = block << PAGE_SHIFT
    end = origin.size if origin_bytes is None else origin_bytes
    origin.read_into(memoryview(page)[: min(PAGE_BYTES, end - offset)], offset)
    return xxh3_64_intdigest(page)


def take(origin: Device) -> tuple[int, ...]:
    """The samples of the origin as it is now. Raises DeviceError."""
    return tuple(sample_page(origin, block) for block in sampled_blocks(origin.size))


def differing_blocks(
    origin: Device, samples: tuple[int, ...], is_dirty: Callable[[int], bool], origin_bytes: int | None = None
) -> list[int]:
    """Sampled blocks that are not as recorded, except those that the log is going to overwrite, and those that are not
    completely there any more.

    origin_bytes is the size with which they were recorded. Raises DeviceError.
    """
    size = origin.size if origin_bytes is None else origin_bytes
    return [
        block
        for block, recorded in zip(sampled_blocks(size), samples, strict=True)
        if min((block + 1) << PAGE_SHIFT, size) <= origin.size
        and not is_dirty(block)
        and sample_page(origin, block, size) != recorded
    ]


def updated(origin_bytes: int, samples: tuple[int, ...], changed: Callable[[int], int | None]) -> tuple[int, ...]:
    """The samples after a batch: changed(block) is the new checksum of a page, or None if it is unchanged."""
    result = []
    for block, recorded in zip(sampled_blocks(origin_bytes), samples, strict=True):
        new = changed(block)
        result.append(recorded if new is None else new)
    return tuple(result)

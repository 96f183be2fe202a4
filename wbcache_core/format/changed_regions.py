# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of the map of changed regions: what of the volume was written while some node may have been away.

    map := magic version shift uuid since until zero[4048] bits[16384]

Bit n, from the lowest bit of the first byte on, is set if anything in region n was written by an LSN in [since, until).
A region has 1 << shift blocks. A superblock has the checksum of the whole map. All integers are little-endian.
docs/format.md has a worked example.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.units import KIB, PAGE_BYTES, pages_of

MAGIC = b"WBCREGN1"
VERSION = 1
AREA_OFFSETS = (4 * KIB, 36 * KIB)
"""Where the two maps are, in bytes: each behind a superblock, but any superblock may speak of either."""
_BITS_BYTES = 16 * KIB
AREA_BYTES = PAGE_BYTES + _BITS_BYTES
REGION_COUNT = 8 * _BITS_BYTES
_SMALLEST_SHIFT = 4

_HEADER = struct.Struct("<8sII16sQQ")
_ZEROS = bytes(PAGE_BYTES - _HEADER.size)


def shift_for(origin_bytes: int) -> int:
    """How large regions are: 64 KiB, or the next power of two with which there are not too many."""
    blocks, shift = pages_of(origin_bytes), _SMALLEST_SHIFT
    while blocks > REGION_COUNT << shift:
        shift += 1
    return shift


@dataclass(frozen=True, slots=True)
class ChangedRegions:
    """The regions that were written by LSNs in [since, until)."""

    uuid: bytes
    shift: int
    since: int
    until: int
    bits: int = 0
    """Bit n is that of region n."""

    def with_batch(self, until: int, regions: Iterable[int]) -> "ChangedRegions":
        """Also what was written by LSNs in [self.until, until), which are these regions, and perhaps more of them."""
        new = bytearray(_BITS_BYTES)
        for region in regions:
            new[region >> 3] |= 1 << (region & 7)
        bits = self.bits | int.from_bytes(new, "little")
        return ChangedRegions(self.uuid, self.shift, self.since, max(until, self.until), bits)

    def run_from(self, block: int, limit: int) -> tuple[bool, int]:
        """Whether the region of a block was written, and up to which block, at most `limit`, that is the same."""
        later = self.bits >> (block >> self.shift)
        is_changed = bool(later & 1)
        # The lowest bit that differs from the first.
        other = ~later & (later + 1) if is_changed else later & -later
        if not other:
            return is_changed, limit
        end = ((block >> self.shift) + other.bit_length() - 1) << self.shift
        return is_changed, min(end, limit)


def encode(regions: ChangedRegions) -> bytes:
    """The map, AREA_BYTES long."""
    header = _HEADER.pack(MAGIC, VERSION, regions.shift, regions.uuid, regions.since, regions.until)
    return header + _ZEROS + regions.bits.to_bytes(_BITS_BYTES, "little")


def checksum(image: bytes | memoryview) -> int:
    """What a superblock says of a map; never 0."""
    return xxh3_64_intdigest(image) or 1


def decode(image: memoryview) -> ChangedRegions:
    """The map in AREA_BYTES. Raises FormatError, and nothing else, for any bytes."""
    if len(image) != AREA_BYTES or image[:8] != MAGIC:
        raise FormatError("no map of changed regions here")
    _, version, shift, uuid, since, until = _HEADER.unpack_from(image)
    if version != VERSION:
        raise FormatError(f"a map of changed regions of version {version}; this wbcache reads version {VERSION}")
    if not (1 <= since <= until and _SMALLEST_SHIFT <= shift < 64) or image[_HEADER.size : PAGE_BYTES] != _ZEROS:
        raise FormatError("the map of changed regions contradicts itself")
    return ChangedRegions(uuid, shift, since, until, int.from_bytes(image[PAGE_BYTES:], "little"))

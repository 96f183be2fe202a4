# SPDX-License-Identifier: BSD-3-Clause
"""The bytes in front of a piece of the volume that an owner copies to the origin of a standby.

    piece := magic version flags uuid epoch_number epoch_id block block_count first_lsn end_lsn data_sum zero[4000]
             checksum

A write to the beginning of the export `log`, with the data right behind it. The blocks are as the owner read them: with
everything below first_lsn, and nothing from end_lsn on. Flag 1: they are all zeros, and no data follows. Flag 2: no LSN
in [first_lsn, end_lsn) wrote them, and no data follows. All integers are little-endian. docs/standby-state.md has a
worked example.
"""

import struct
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import LAST_NUMBER, Epoch
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT

MAGIC = b"WBCFILL1"
VERSION = 1
MAX_BLOCKS = 256
"""With data."""
_ZERO, _UNCHANGED = 1, 2

_HEADER = struct.Struct("<8sII16s7Q")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size
_ZEROS = bytes(_CHECKSUM_AT - _HEADER.size)


@dataclass(frozen=True, slots=True)
class FillPiece:
    """Blocks of 4096 bytes, read in that epoch."""

    uuid: bytes
    epoch: Epoch
    block: int
    """The first one."""
    block_count: int
    first_lsn: int
    """They hold every write below."""
    end_lsn: int
    """They hold no write from here on."""
    data_sum: int
    """xxh3_64 of the data; 0 for zeros."""
    is_zero: bool
    """They are all zeros, and no data follows."""
    is_unchanged: bool = False
    """Instead of all that: no LSN in [first_lsn, end_lsn) wrote them, so they are as they were before."""

    @property
    def data_bytes(self) -> int:
        """How much data follows."""
        return 0 if self.is_zero or self.is_unchanged else self.block_count << PAGE_SHIFT


def encode(piece: FillPiece) -> bytes:
    """A page."""
    flags = _ZERO * piece.is_zero | _UNCHANGED * piece.is_unchanged
    body = _HEADER.pack(
        MAGIC, VERSION, flags, piece.uuid, piece.epoch.number, piece.epoch.id, piece.block,
        piece.block_count, piece.first_lsn, piece.end_lsn, piece.data_sum,
    ) + _ZEROS  # fmt: skip
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def is_fill_piece(data: memoryview) -> bool:
    """Whether a write to the beginning of the export is one."""
    return data[:8] == MAGIC


def decode(page: memoryview) -> FillPiece:
    """What a page of 4096 bytes says. Raises FormatError, and nothing else, for any bytes."""
    if len(page) != PAGE_BYTES or not is_fill_piece(page):
        raise FormatError("no piece of a volume here")
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("the head of a piece of the volume fails its checksum")
    _, version, flags, uuid, number, epoch_id, block, count, first_lsn, end_lsn, data_sum = _HEADER.unpack_from(page)
    if version != VERSION:
        raise FormatError(f"a piece of the volume of version {version}; this wbcache reads version {VERSION}")
    is_zero, is_unchanged = flags == _ZERO, flags == _UNCHANGED
    has_data = not flags
    is_sound = (
        flags in (0, _ZERO, _UNCHANGED)
        and bytes(page[_HEADER.size : _CHECKSUM_AT]) == _ZEROS
        and 0 < number <= LAST_NUMBER
        and epoch_id
        and 0 < count <= (MAX_BLOCKS if has_data else 1 << 52)
        and 1 <= first_lsn <= end_lsn
        and (has_data or not data_sum)
    )
    if not is_sound:
        raise FormatError("the head of a piece of the volume contradicts itself")
    return FillPiece(
        uuid, Epoch(number, epoch_id), block, count, first_lsn, end_lsn, data_sum, is_zero, is_unchanged
    )

# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a standing: what an owner tells a standby about itself, in a write to the beginning of the export `log`.

    standing := magic version flags uuid epoch_number epoch_id lsn sign_ms previous safe committed
                everywhere zero[3992] checksum

It is kept in memory alone. All integers are little-endian. docs/standby-state.md has a worked example.
"""

import struct
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import Epoch
from wbcache_core.units import PAGE_BYTES

MAGIC = b"WBCPEER1"
VERSION = 2
_COMPLETE, _MAY_BE_LEFT_OUT, _PARTED = 1, 2, 4

_HEADER = struct.Struct("<8sII16s8Q")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size
_ZEROS = bytes(_CHECKSUM_AT - _HEADER.size)


@dataclass(frozen=True, slots=True)
class Standing:
    """As of that epoch."""

    uuid: bytes
    epoch: Epoch
    lsn: int
    """The standby had everything below when the owner said so; or, if it has parted, from where on the owner does not
    have what it has."""
    is_complete: bool
    """From then on the owner waits for it."""
    may_be_left_out: bool
    """The owner goes on without it when it is silent, and cannot tell it."""
    sign_ms: int
    """The owner gives a sign of life at least so often."""
    has_parted: bool = False
    """The standby has commits of an earlier owner that this one does not have."""
    previous: int = 0
    """If it has parted: the checksum of the last descriptor before that LSN, 0 if the owner does not have it any
    more."""
    safe: int = 0
    """Every LSN below is committed at the owner and at all that it counts: no later owner lacks it. A standby with an
    origin of its own destages no further."""
    committed: int = 0
    """Where the newest commit of the owner ended, or an earlier one."""
    everywhere: int = 0
    """Every LSN below is on the origins of all nodes, each of which has one of its own; 0 if that is not known."""


def encode(standing: Standing) -> bytes:
    """A page."""
    flags = (
        _COMPLETE * standing.is_complete | _MAY_BE_LEFT_OUT * standing.may_be_left_out | _PARTED * standing.has_parted
    )
    body = _HEADER.pack(
        MAGIC, VERSION, flags, standing.uuid, standing.epoch.number, standing.epoch.id, standing.lsn, standing.sign_ms,
        standing.previous, standing.safe, standing.committed, standing.everywhere,
    ) + _ZEROS  # fmt: skip
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def is_standing(page: memoryview) -> bool:
    """Whether it is one, and not a superblock."""
    return page[:8] == MAGIC


def decode(page: memoryview) -> Standing:
    """The standing in a page of 4096 bytes. Raises FormatError, and nothing else, for any bytes."""
    if not is_standing(page):
        raise FormatError("no standing here")
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("the standing fails its checksum")
    _, version, flags, uuid, number, epoch_id, lsn, sign_ms, previous, *cursors = _HEADER.unpack_from(page)
    if version != VERSION:
        raise FormatError(f"standing of version {version}; this wbcache reads version {VERSION}")
    if flags > _COMPLETE | _MAY_BE_LEFT_OUT | _PARTED or bytes(page[_HEADER.size : _CHECKSUM_AT]) != _ZEROS:
        raise FormatError("the standing contradicts itself")
    return Standing(
        uuid, Epoch(number, epoch_id), lsn, bool(flags & _COMPLETE), bool(flags & _MAY_BE_LEFT_OUT), sign_ms,
        bool(flags & _PARTED), previous, *cursors,
    )  # fmt: skip

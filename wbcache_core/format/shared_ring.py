# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a ring in shared memory, which outlives the process: docs/shared-ring.md has a worked example.

    file   := header(4096) state(4096) block* padding range* padding slot*
    header := magic version zero32 uuid boot zero32 ring_pages volatile_pages zero* checksum
    state  := head ranges anchor_number zero64 anchor[2] zero*
    anchor := lsn checksum generation zero64
    block  := word of the LSN whose slot it is: a block, or SEGMENT_WORD
    range  := kind<<56|block  count  lsn  number

The header is written once, last, when everything else is there. All other
words are in the byte order of the machine, which is the only one that ever
reads them.
"""

import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.units import PAGE_BYTES, PAGE_SHIFT, pages_of

MAGIC = b"WBCSHRNG"
VERSION = 1

HEAD, RANGES, ANCHOR = 0, 1, 2
"""Indices of the state's words."""
SEGMENT_WORD = 2**64 - 1
"""In place of a block: the LSN is that of a segment's descriptor."""
RANGE_WORDS = 4
STATE_WORDS = PAGE_BYTES // 8
_FIRST_ANCHOR, _ANCHOR_WORDS = 4, 4
_RANGES_PER_PAGE = 4
"""As many as segments take for each page (memory/open_segment.py)."""

_HEADER = struct.Struct("<8sII16sIIQQ")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size


class RingHeader(NamedTuple):
    """What identifies a ring: the volume, and the boot of the machine (see format.md)."""

    uuid: bytes
    boot: int
    ring_pages: int
    volatile_pages: int
    """At most so many LSNs are not committed."""


class Anchor(NamedTuple):
    """The end of the log after a commit: the LSN that comes next, and checksum and generation of the last
    descriptor."""

    lsn: int
    checksum: int
    generation: int


class Layout:
    """Where the parts are, in bytes; everything before the slots is the journal."""

    def __init__(self, ring_pages: int, volatile_pages: int) -> None:
        self.ring_pages = ring_pages
        self.volatile_pages = volatile_pages
        self.range_count = _RANGES_PER_PAGE * volatile_pages
        self.state_at = PAGE_BYTES
        self.blocks_at = self.state_at + PAGE_BYTES
        self.ranges_at = self.blocks_at + (pages_of(8 * ring_pages) << PAGE_SHIFT)
        self.journal_bytes = self.ranges_at + (pages_of(8 * RANGE_WORDS * self.range_count) << PAGE_SHIFT)
        self.file_bytes = self.journal_bytes + (ring_pages << PAGE_SHIFT)


def encode_header(header: RingHeader) -> bytes:
    """A page."""
    body = _HEADER.pack(
        MAGIC, VERSION, 0, header.uuid, header.boot, 0, header.ring_pages, header.volatile_pages
    )
    body += bytes(_CHECKSUM_AT - len(body))
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def decode_header(page: bytes | memoryview) -> RingHeader:
    """Raises FormatError, and nothing else, for any page."""
    magic, version, zero, uuid, boot, more_zero, ring_pages, volatile_pages = _HEADER.unpack_from(page)
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if magic != MAGIC or xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("its header is damaged, or was never completed")
    if version != VERSION:
        raise FormatError(f"it is of version {version}, and this wbcache knows version {VERSION}")
    if zero or more_zero or not 0 < volatile_pages <= ring_pages:
        raise FormatError("its header contradicts itself")
    return RingHeader(uuid, boot, ring_pages, volatile_pages)


def read_anchor(state: memoryview) -> Anchor:
    """The one in force. `state` is of 64-bit words."""
    at = _FIRST_ANCHOR + _ANCHOR_WORDS * (state[ANCHOR] & 1)
    return Anchor(*state[at : at + len(Anchor._fields)])


def write_anchor(state: memoryview, anchor: Anchor) -> None:
    """Put another one in force by a single store, when all its words are there."""
    number = state[ANCHOR] + 1
    at = _FIRST_ANCHOR + _ANCHOR_WORDS * (number & 1)
    for index, word in enumerate(anchor, at):
        state[index] = word
    state[ANCHOR] = number

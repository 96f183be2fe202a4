# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a segment descriptor, the page that heads each segment of the log.

    descriptor := magic version encoding answers8 entry_count page_count uuid first_lsn time_ns committed
                  generation previous payload_bytes boot32 boot_ns epoch32 zero32 epoch_id zero[16]
                  frame_length16[16] entry[246] checksum
    entry      := kind<<56|block  argument          (16 bytes)

A page entry's argument is the xxh3-64 of the page, a range entry's the number
of blocks. Page entries take LSNs first_lsn+1, first_lsn+2, ... in their order;
a range entry takes none and stands at the LSN before it. time_ns is what the
wall clock said, boot_ns the time since the boot that `boot` tells; version 1
had zeros there, and times that were made to increase. A frame that is stored as
it is has length 0. Versions 1 and 2 had 0 for answers, and frame_length32[16],
with every length, instead of epoch and frame lengths. All integers are
little-endian. docs/format.md has the grammar and a worked example.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.clock import Reading
from wbcache_core.errors import FormatError, LaterVersionError
from wbcache_core.format.answers import NO_ANSWERS, Answers, decode_answers, encode_answers
from wbcache_core.format.epoch import NO_EPOCH, Epoch
from wbcache_core.units import PAGE_BYTES, pages_of

MAGIC = b"WBCSEGMT"
VERSION = 3
OLDEST_VERSION = 1
_VERSION_WITHOUT_EPOCH = 2

RAW, ZSTD = 0, 1

PAGE, TRIM, ZERO = 0, 1, 2
"""Kinds of entries: a page of data, a discarded range, a range of zeros that stays allocated."""
KIND_NAMES = ("page", "trim", "zero")
KIND_SHIFT = 56
BLOCK_MASK = (1 << KIND_SHIFT) - 1

MAX_ENTRIES = 246
FRAME_PAGES = 16
FRAME_COUNT = 16
MAX_SEGMENT_PAGES = 1 + MAX_ENTRIES
"""Pages of the largest segment in the log, its descriptor included."""

_HEADER = struct.Struct("<8sHBBHH16sQQQQQIIQ64s")
_LONG_FRAMES = struct.Struct(f"<{FRAME_COUNT}I")
"""Where versions 1 and 2 had the lengths of the frames."""
_EPOCH_AND_FRAMES = struct.Struct(f"<IIQ16s{FRAME_COUNT}H")
_EPOCH_ALONE = struct.Struct("<IIQ48x")
_COMMITTED_AT = struct.calcsize("<8sHBBHH16sQQ")
_ENTRIES_AT = _HEADER.size
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size
_ENTRY = struct.Struct("<QQ")
_ENTRY_BYTES = _ENTRY.size

assert _HEADER.size == 152
assert _ENTRY_BYTES == 16
assert _LONG_FRAMES.size == _EPOCH_AND_FRAMES.size == _EPOCH_ALONE.size == 64
assert _ENTRIES_AT + MAX_ENTRIES * _ENTRY_BYTES == _CHECKSUM_AT
assert FRAME_PAGES * FRAME_COUNT >= MAX_ENTRIES

ZERO_PAGE_SUM = xxh3_64_intdigest(bytes(PAGE_BYTES))
"""The checksum of a page of zeros."""
_MAGIC_WORD = int.from_bytes(MAGIC, sys.byteorder)
_NO_FRAMES = (0,) * FRAME_COUNT
_ANSWERS = tuple(map(decode_answers, range(256)))
"""What each byte means."""
_NO_FRAME_BYTES = bytes(_LONG_FRAMES.size)
_EPOCH_BYTES = struct.calcsize("<IIQ")
_ZEROS_AFTER_EPOCH = bytes(_EPOCH_ALONE.size - _EPOCH_BYTES)
_REST = tuple(bytes(_CHECKSUM_AT - _ENTRIES_AT - count * _ENTRY_BYTES) for count in range(MAX_ENTRIES + 1))
"""The zeros after that many entries."""
_KIND_LIMIT = (ZERO + 1) << KIND_SHIFT


class Entry(NamedTuple):
    """One entry of a segment: a page, with its checksum, or a trim or zero of `blocks` blocks."""

    kind: int
    lsn: int
    block: int
    blocks: int
    checksum: int | None


def entries_of(first_lsn: int, entry_words: Iterable[int], arguments: Iterable[int]) -> Iterator[Entry]:
    """The entries of the segment that starts with first_lsn, in order. A range stands at the LSN before it."""
    lsn = first_lsn
    for head, argument in zip(entry_words, arguments, strict=True):
        if head <= BLOCK_MASK:
            lsn += 1
            yield Entry(PAGE, lsn, head, 1, argument)
        else:
            yield Entry(head >> KIND_SHIFT, lsn, head & BLOCK_MASK, argument, None)


@dataclass(slots=True)
class Descriptor:
    """One decoded descriptor. LSNs count pages, `payload_bytes` is before padding to a page. `entry_words` are the
    first words of the entries, `arguments` the second ones."""

    encoding: int
    page_count: int
    uuid: bytes
    first_lsn: int
    time_ns: int
    committed: int
    generation: int
    previous: int
    payload_bytes: int
    frame_lengths: tuple[int, ...]
    entry_words: tuple[int, ...]
    arguments: tuple[int, ...]
    checksum: int = 0
    boot: int = 0
    boot_ns: int = 0
    version: int = VERSION
    epoch: Epoch = NO_EPOCH
    answers: Answers = NO_ANSWERS

    @property
    def reading(self) -> Reading:
        """What the clocks said when the commit was written."""
        return Reading(self.time_ns, self.boot_ns, self.boot)

    @property
    def end_lsn(self) -> int:
        """The first LSN of the next segment."""
        return self.first_lsn + 1 + self.page_count

    @property
    def log_pages(self) -> int:
        """Pages that the segment takes in the log."""
        return 1 + pages_of(self.payload_bytes)

    @property
    def has_ranges(self) -> bool:
        """Whether any entry is a trim or zero. Most segments have none and are handled as a whole."""
        return self.page_count != len(self.entry_words)

    @property
    def page_blocks(self) -> Sequence[int]:
        """The blocks of the segment's pages, in LSN order."""
        return [head for head in self.entry_words if head <= BLOCK_MASK] if self.has_ranges else self.entry_words

    @property
    def page_sums(self) -> Sequence[int]:
        """The checksums of the segment's pages, in LSN order."""
        if not self.has_ranges:
            return self.arguments
        pairs = zip(self.entry_words, self.arguments, strict=True)
        return [argument for head, argument in pairs if head <= BLOCK_MASK]

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order."""
        return entries_of(self.first_lsn, self.entry_words, self.arguments)


def encode(descriptor: Descriptor, page: memoryview) -> int:
    """Write the descriptor into a page; returns its checksum, also kept in the descriptor."""
    count = len(descriptor.entry_words)
    assert count <= MAX_ENTRIES and descriptor.page_count <= count and len(descriptor.arguments) == count
    _HEADER.pack_into(
        page, 0, MAGIC, descriptor.version, descriptor.encoding, encode_answers(descriptor.answers), count,
        descriptor.page_count, descriptor.uuid, descriptor.first_lsn, descriptor.time_ns, descriptor.committed,
        descriptor.generation, descriptor.previous, descriptor.payload_bytes, descriptor.boot, descriptor.boot_ns,
        _epoch_and_frames(descriptor),
    )  # fmt: skip
    words = array("Q", bytes(count * _ENTRY_BYTES))
    words[0::2] = array("Q", descriptor.entry_words)
    words[1::2] = array("Q", descriptor.arguments)
    if sys.byteorder == "big":
        words.byteswap()
    end = _ENTRIES_AT + count * _ENTRY_BYTES
    page[_ENTRIES_AT:end] = memoryview(words).cast("B")
    page[end:_CHECKSUM_AT] = _REST[count]
    descriptor.checksum = xxh3_64_intdigest(page[:_CHECKSUM_AT])
    _CHECKSUM.pack_into(page, _CHECKSUM_AT, descriptor.checksum)
    return descriptor.checksum


def _epoch_and_frames(descriptor: Descriptor) -> bytes:
    lengths = descriptor.frame_lengths
    if descriptor.version <= _VERSION_WITHOUT_EPOCH:
        return _LONG_FRAMES.pack(*lengths) if lengths else _NO_FRAME_BYTES
    epoch = descriptor.epoch
    if descriptor.encoding == RAW:
        return _EPOCH_ALONE.pack(epoch.number, 0, epoch.id)
    whole = _whole_frames(descriptor.page_count)
    stored = (0 if length == full else length for length, full in zip(lengths, whole, strict=True))
    return _EPOCH_AND_FRAMES.pack(epoch.number, 0, epoch.id, b"", *stored)


def plain_bytes(number: int, page_count: int) -> int:
    """How long frame `number` of a segment of page_count pages is if it is stored as it is."""
    return min(FRAME_PAGES, page_count - number * FRAME_PAGES) * PAGE_BYTES


def _whole_frames(page_count: int) -> list[int]:
    """How long each frame is if it is stored as it is; 0 for one that does not exist."""
    return [max(plain_bytes(number, page_count), 0) for number in range(FRAME_COUNT)]


def _decode_epoch_and_frames(
    content: bytes, version: int, encoding: int, page_count: int
) -> tuple[Epoch, tuple[int, ...]]:
    """Raises FormatError."""
    if version <= _VERSION_WITHOUT_EPOCH:
        return NO_EPOCH, _NO_FRAMES if content == _NO_FRAME_BYTES else _LONG_FRAMES.unpack(content)
    number, zero, epoch_id = _EPOCH_ALONE.unpack(content)
    if zero or not number or not epoch_id:
        raise FormatError("the segment descriptor has an impossible epoch")
    epoch = Epoch(number, epoch_id)
    if encoding == RAW:
        if content[_EPOCH_BYTES:] != _ZEROS_AFTER_EPOCH:
            raise FormatError("the segment descriptor has data where zeros belong")
        return epoch, _NO_FRAMES
    _, _, _, zeros, *stored = _EPOCH_AND_FRAMES.unpack(content)
    if any(zeros):
        raise FormatError("the segment descriptor has data where zeros belong")
    if not any(stored):
        raise FormatError("the segment descriptor contradicts itself: none of its frames is compressed")
    whole = _whole_frames(page_count)
    if any(length >= full for length, full in zip(stored, whole, strict=True) if length):
        raise FormatError("the segment descriptor has a frame that is longer than its pages")
    return epoch, tuple(length or full for length, full in zip(stored, whole, strict=True))


def has_magic(page: memoryview) -> bool:
    """Whether this could be a descriptor at all; only decode() tells."""
    return page[:8] == MAGIC


def indices_with_magic(view: memoryview) -> list[int]:
    """Which pages of a view of whole pages could be descriptors, by the first word of each; only decode() tells."""
    first_words = view.cast("Q")[:: PAGE_BYTES // _CHECKSUM.size].tolist()
    return [index for index, word in enumerate(first_words) if word == _MAGIC_WORD]


def claimed_committed(page: memoryview) -> int:
    """The `committed` of the page, if it is a descriptor."""
    return int.from_bytes(page[_COMMITTED_AT : _COMMITTED_AT + 8], "little")


def decode(page: memoryview) -> Descriptor:
    """The descriptor in a page of 4096 bytes. Raises FormatError, and nothing else, for any bytes."""
    (magic, version, encoding, answers_byte, count, page_count, uuid, first_lsn, time_ns, committed, generation,
     previous, payload_bytes, boot, boot_ns, frames) = _HEADER.unpack_from(page)  # fmt: skip
    if magic != MAGIC:
        raise FormatError("no segment descriptor here")
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("the segment descriptor fails its checksum")
    if not OLDEST_VERSION <= version <= VERSION:
        raise LaterVersionError(
            f"segment descriptor of version {version}; this wbcache reads versions {OLDEST_VERSION} to {VERSION}", uuid
        )
    if (boot_ns and not boot) or (boot and version == OLDEST_VERSION):
        raise FormatError("the segment descriptor has an impossible time since the boot")
    answers = _ANSWERS[answers_byte]
    if answers is None or (answers_byte > 0) != (version > _VERSION_WITHOUT_EPOCH):
        raise FormatError("the segment descriptor has impossible answers")
    if count > MAX_ENTRIES or page_count > count or encoding > ZSTD:
        raise FormatError("the segment descriptor has impossible fields")
    end = _ENTRIES_AT + count * _ENTRY_BYTES
    entry_words, arguments = _entries(page, count)
    epoch, lengths = _decode_epoch_and_frames(frames, version, encoding, page_count)
    descriptor = Descriptor(
        encoding, page_count, uuid, first_lsn, time_ns, committed, generation, previous, payload_bytes,
        lengths, entry_words, arguments, checksum, boot, boot_ns, version, epoch, answers,
    )  # fmt: skip
    # As bytes, because views are compared element by element.
    if bytes(page[end:_CHECKSUM_AT]) != _REST[count]:
        raise FormatError("the segment descriptor has data where zeros belong")
    _check(descriptor)
    return descriptor


def _entries(page: memoryview, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first and the second words of the entries."""
    if count == 1:
        head, argument = _ENTRY.unpack_from(page, _ENTRIES_AT)
        return (head,), (argument,)
    words = array("Q", bytes(page[_ENTRIES_AT : _ENTRIES_AT + count * _ENTRY_BYTES]))
    if sys.byteorder == "big":
        words.byteswap()
    return tuple(words[0::2]), tuple(words[1::2])


def _check(descriptor: Descriptor) -> None:
    """Check the relations between fields that hold in every descriptor written by encode(). Raises FormatError."""
    entry_words = descriptor.entry_words
    highest = max(entry_words, default=0)
    if highest >= _KIND_LIMIT:
        raise FormatError("the segment descriptor has an entry of unknown kind")
    page_count = len(entry_words) if highest <= BLOCK_MASK else sum(head <= BLOCK_MASK for head in entry_words)
    if page_count != descriptor.page_count:
        raise FormatError("the segment descriptor's page count does not match its entries")
    raw_bytes = descriptor.page_count * PAGE_BYTES
    if descriptor.encoding == RAW:
        sound = descriptor.payload_bytes == raw_bytes and descriptor.frame_lengths == _NO_FRAMES
    else:
        used = (descriptor.page_count + FRAME_PAGES - 1) // FRAME_PAGES
        lengths = descriptor.frame_lengths
        sound = (
            sum(lengths) == descriptor.payload_bytes <= raw_bytes
            and all(lengths[:used])
            and not any(lengths[used:])
        )  # fmt: skip
    if not sound or descriptor.first_lsn == 0 or descriptor.committed > descriptor.first_lsn:
        raise FormatError("the segment descriptor contradicts itself")

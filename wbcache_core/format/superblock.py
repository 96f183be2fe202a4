# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a superblock; two of them, written in turn, head every log.

    superblock := magic version flags uuid sequence log_bytes data_start page_bytes sample_count
                  origin_bytes oldest oldest_place destaged destaged_place destaged_previous
                  destaged_generation destaged_time_ns batch_end committed written_ns epochs[360]
                  origin_name[200] fill regions_sum samples[32] tag[32] facts[248] checksum
    fill       := filled counted lsn base begin reach
    tag        := name[64] generation end_lsn time_ns
    epochs     := see epoch.py
    facts      := see origin_facts.py

Version 1 has zeros where the tags are, versions 1 and 2 where the facts are.
Versions 1 to 3 have 104 zeros and an origin_name of 512 bytes instead of the
epochs and the shorter name, versions 4 and 5 a name of 256 bytes instead of
name, fill and regions_sum. Versions 1 to 4 have 0 for the flags, version 5 the
first one alone. All are written as version 6. All integers are little-endian.
A place, or position, is a page number in the data area that only grows: modulo
the number of its pages it is the physical page. docs/format.md has the grammar
and a worked example.
"""

import struct
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format import origin_facts
from wbcache_core.format.epoch import EPOCHS_BYTES, NO_EPOCH, Epoch, Switch, decode_epochs, encode_epochs
from wbcache_core.format.origin_facts import FACTS_BYTES, NO_FACTS, OriginFacts
from wbcache_core.units import KIB, MIB, PAGE_BYTES, pages_of

MAGIC = b"WBCACHEL"
VERSION = 6
_VERSION_WITHOUT_TAGS, _VERSION_WITHOUT_FACTS, _VERSION_WITHOUT_EPOCHS, _VERSION_WITHOUT_FLAGS = 1, 2, 3, 4
_VERSION_WITHOUT_FILL = 5
_COPY, _OWN_ORIGINS, _INCONSISTENT = 1, 2, 4

SLOT_OFFSETS = (0, 32 * KIB)
"""Where the two superblocks are, in bytes; far apart, so that one bad erase block does not destroy both."""
DATA_START = 64 * KIB
MIN_LOG_BYTES = 4 * MIB
SAMPLE_COUNT = 32
NAME_BYTES = 200
_ZEROS_BEFORE_EPOCHS = 104
TAG_COUNT = 32
TAG_NAME_BYTES = 64

_FILL = struct.Struct("<7Q")
"""And the checksum of the map of changed regions."""
_EPOCHS_AND_NAME_BYTES = EPOCHS_BYTES + NAME_BYTES + _FILL.size
_LAYOUT = struct.Struct(f"<8sII16sQQQIIQQQQQQQQQQQ{_EPOCHS_AND_NAME_BYTES}s{SAMPLE_COUNT}Q2816s{FACTS_BYTES}s")
_TAG = struct.Struct(f"<{TAG_NAME_BYTES}sQQQ")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size

assert _LAYOUT.size == _CHECKSUM_AT
assert TAG_COUNT * _TAG.size == 2816


class NewerVersionError(FormatError):
    """A valid superblock written by a newer wbcache."""


class Tag(NamedTuple):
    """A name for a generation: the volume as it stood at end_lsn, in ns since 1970."""

    name: str
    generation: int
    end_lsn: int
    time_ns: int


class Fill(NamedTuple):
    """How far an origin has been filled that was not the volume when its log began."""

    filled: int = 0
    """Blocks of 4096 bytes, from the beginning, that have been copied."""
    counted: int = 0
    """So many of them hold nothing that has not been destaged here as well."""
    lsn: int = 0
    """All that were copied count when everything below this LSN has been destaged."""
    base: int = 0
    """Up to this LSN the origin was the volume before, but for what was copied or destaged since; 0 if that is not
    known."""
    begin: int = 0
    """Where the log begins that is destaged meanwhile."""
    reach: int = 0
    """With a base: nothing has been copied to this block or a later one."""

    def lacks_only(self, since: int, until: int) -> bool:
        """Whether what LSNs in [since, until) wrote is all that the origin may lack and the log does not have."""
        return bool(self.base) and since <= self.base and self.begin <= until


NO_FILL = Fill()


@dataclass(frozen=True, slots=True)
class Superblock:
    """One decoded superblock. Cursors are LSNs, places are pages of the data area, times are ns since 1970."""

    uuid: bytes
    sequence: int
    log_bytes: int
    origin_bytes: int
    origin_name: str
    samples: tuple[int, ...]
    oldest: int = 1
    oldest_place: int = 0
    destaged: int = 1
    destaged_place: int = 0
    destaged_previous: int = 0
    destaged_generation: int = 0
    destaged_time_ns: int = 0
    batch_end: int = 1
    committed: int = 1
    written_ns: int = 0
    tags: tuple[Tag, ...] = ()
    origin_facts: OriginFacts = NO_FACTS
    epoch: Epoch = NO_EPOCH
    history: tuple[Switch, ...] = ()
    """Where the latest epochs began, oldest first."""
    is_copy: bool = False
    """Written by a standby: its owner may have more."""
    has_own_origins: bool = False
    """Each node of the volume has an origin of its own; what this says of one is about that of this node."""
    is_inconsistent: bool = False
    """This log and the origin are no state of the volume: the origin is being filled."""
    fill: Fill = NO_FILL
    """How far, if it is being filled."""
    regions_sum: int = 0
    """Checksum of the map of changed regions (changed_regions.py), 0 if there is none."""
    version: int = field(default=VERSION, compare=False)
    """The version it was read as; it is always written as VERSION."""

    def with_changes(self, **changes: Any) -> "Superblock":
        """A copy with other values in some fields."""
        return replace(self, **changes)

    def describe_origin(self) -> str:
        """For people: how old the origin alone is, should the log be lost."""
        if not self.destaged_generation:
            state = "is as it was before the cache was put in front of it"
        else:
            moment = datetime.fromtimestamp(self.destaged_time_ns // 10**9, timezone.utc)
            state = f"is the volume as of {moment:%Y-%m-%d %H:%M:%S} UTC, generation {self.destaged_generation}"
        if self.batch_end > self.destaged:
            state += f", with writes up to LSN {self.batch_end} perhaps partly over it"
        return f"the origin alone {state}"

    @property
    def data_pages(self) -> int:
        """Pages of the data area."""
        return (self.log_bytes - DATA_START) // PAGE_BYTES


def encode(superblock: Superblock) -> bytes:
    """A page. The origin's name is cut to its last 200 bytes."""
    assert all(superblock.batch_end <= tag.end_lsn <= superblock.committed for tag in superblock.tags)
    name = superblock.origin_name.encode("utf-8", "surrogateescape")[-NAME_BYTES:]
    flags = _COPY * superblock.is_copy | _OWN_ORIGINS * superblock.has_own_origins
    flags |= _INCONSISTENT * superblock.is_inconsistent
    body = _LAYOUT.pack(
        MAGIC, VERSION, flags, superblock.uuid, superblock.sequence, superblock.log_bytes,
        DATA_START, PAGE_BYTES, SAMPLE_COUNT, superblock.origin_bytes, superblock.oldest, superblock.oldest_place,
        superblock.destaged, superblock.destaged_place, superblock.destaged_previous, superblock.destaged_generation,
        superblock.destaged_time_ns, superblock.batch_end, superblock.committed, superblock.written_ns,
        encode_epochs(superblock.epoch, superblock.history) + name.ljust(NAME_BYTES, b"\0")
        + _FILL.pack(*superblock.fill, superblock.regions_sum), *superblock.samples,
        _encode_tags(superblock.tags), origin_facts.encode(superblock.origin_facts),
    )  # fmt: skip
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def _encode_tags(tags: tuple[Tag, ...]) -> bytes:
    assert len(tags) <= TAG_COUNT and all(0 < len(tag.name.encode()) <= TAG_NAME_BYTES for tag in tags)
    return b"".join(_TAG.pack(tag.name.encode(), *tag[1:]) for tag in tags)


def _decode_tags(table: bytes) -> tuple[Tag, ...]:
    """The tags in the slots before the first one that is all zeros; all later ones must be so too. Raises
    FormatError."""
    slots = [table[at : at + _TAG.size] for at in range(0, len(table), _TAG.size)]
    used = next((index for index, slot in enumerate(slots) if not any(slot)), len(slots))
    try:
        found = [(name.rstrip(b"\0").decode(), *rest) for name, *rest in map(_TAG.unpack, slots[:used])]
    except UnicodeDecodeError:
        raise FormatError("the superblock has a tag whose name is not UTF-8") from None
    tags = tuple(Tag(*fields) for fields in found)
    if any(map(any, slots[used:])) or not all(tag.name.isprintable() and tag.name for tag in tags):
        raise FormatError("the superblock has tags that no wbcache writes")
    return tags


def _decode_epochs_and_name(content: bytes, version: int) -> tuple[Epoch, tuple[Switch, ...], bytes, Fill, int]:
    """The same with the fill, and the checksum of the map of changed regions. Raises FormatError."""
    if version > _VERSION_WITHOUT_FILL:
        *words, regions_sum = _FILL.unpack_from(content, EPOCHS_BYTES + NAME_BYTES)
        name = content[EPOCHS_BYTES : EPOCHS_BYTES + NAME_BYTES]
        return *decode_epochs(content[:EPOCHS_BYTES]), name, Fill(*words), regions_sum
    if version > _VERSION_WITHOUT_EPOCHS:
        return *decode_epochs(content[:EPOCHS_BYTES]), content[EPOCHS_BYTES:], NO_FILL, 0
    if any(content[:_ZEROS_BEFORE_EPOCHS]):
        raise FormatError("the superblock contradicts itself: it has data where zeros belong")
    return NO_EPOCH, (), content[_ZEROS_BEFORE_EPOCHS:], NO_FILL, 0


def _are_flags_sound(flags: int, version: int) -> bool:
    """Whether that version may have them."""
    if version <= _VERSION_WITHOUT_FILL:
        return flags in (0, _COPY) and (version > _VERSION_WITHOUT_FLAGS or not flags)
    is_standby = flags & _COPY and flags & _OWN_ORIGINS
    return flags <= _COPY | _OWN_ORIGINS | _INCONSISTENT and bool(is_standby or not flags & _INCONSISTENT)


def is_fill_sound(is_inconsistent: bool, fill: Fill, origin_bytes: int) -> bool:
    """Whether it can be that of an origin of so many bytes."""
    if not is_inconsistent:
        return fill == NO_FILL
    blocks = pages_of(origin_bytes)
    return fill.counted <= fill.filled <= blocks and fill.base <= fill.begin and fill.reach <= blocks * bool(fill.base)


def decode(page: memoryview) -> Superblock:
    """The superblock in a page of 4096 bytes.

    Raises NewerVersionError for a valid one that this code is too old for,
    FormatError for everything else.
    """
    if page[:8] != MAGIC:
        raise FormatError("no superblock here")
    (checksum,) = _CHECKSUM.unpack_from(page, _CHECKSUM_AT)
    if xxh3_64_intdigest(page[:_CHECKSUM_AT]) != checksum:
        raise FormatError("the superblock fails its checksum")
    (_, version, flags, uuid, sequence, log_bytes, data_start, page_bytes, sample_count, origin_bytes, oldest,
     oldest_place, destaged, destaged_place, destaged_previous, destaged_generation, destaged_time_ns, batch_end,
     committed, written_ns, epochs_and_name, *samples, tag_table, fact_table
     ) = _LAYOUT.unpack_from(page, 0)  # fmt: skip
    if version > VERSION:
        raise NewerVersionError(f"log of format version {version}; this wbcache reads up to version {VERSION}")
    tags = _decode_tags(tag_table)
    facts = origin_facts.decode(fact_table)
    epoch, history, name, fill, regions_sum = _decode_epochs_and_name(epochs_and_name, version)
    superblock = Superblock(
        uuid, sequence, log_bytes, origin_bytes, name.rstrip(b"\0").decode("utf-8", "surrogateescape"),
        tuple(samples), oldest, oldest_place, destaged, destaged_place, destaged_previous, destaged_generation,
        destaged_time_ns, batch_end, committed, written_ns, tags, facts, epoch, history,
        bool(flags & _COPY), bool(flags & _OWN_ORIGINS), bool(flags & _INCONSISTENT), fill, regions_sum,
        version,
    )  # fmt: skip
    sound = (
        version >= _VERSION_WITHOUT_TAGS
        and (version > _VERSION_WITHOUT_TAGS or not tags)
        and (version > _VERSION_WITHOUT_FACTS or not any(fact_table))
        and _are_flags_sound(flags, version)
        and is_fill_sound(bool(flags & _INCONSISTENT), fill, origin_bytes)
        and (superblock.has_own_origins or not regions_sum)
        and (data_start, page_bytes, sample_count) == (DATA_START, PAGE_BYTES, SAMPLE_COUNT)
        and log_bytes >= MIN_LOG_BYTES
        and log_bytes % PAGE_BYTES == 0
        and 1 <= oldest <= destaged <= committed
        and destaged <= batch_end
        and oldest_place <= destaged_place <= oldest_place + superblock.data_pages
        and len({tag.name for tag in tags}) == len(tags)
        and all(batch_end <= tag.end_lsn <= committed for tag in tags)
        and all(switch.first_lsn <= committed for switch in history)
    )
    if not sound:
        raise FormatError("the superblock contradicts itself")
    return superblock

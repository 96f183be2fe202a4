# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a superblock."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import HISTORY_LENGTH, LAST_NUMBER, NO_EPOCH, Epoch, Switch
from wbcache_core.format.origin_facts import FILE, OriginFacts
from wbcache_core.format.superblock import (
    DATA_START,
    MAGIC,
    MIN_LOG_BYTES,
    NAME_BYTES,
    NO_FILL,
    SAMPLE_COUNT,
    SLOT_OFFSETS,
    TAG_COUNT,
    TAG_NAME_BYTES,
    VERSION,
    Fill,
    NewerVersionError,
    Superblock,
    Tag,
    decode,
    encode,
)
from wbcache_core.units import PAGE_BYTES

U64 = st.integers(0, 2**64 - 1)
CHECKSUM_AT = PAGE_BYTES - 8
NAMES = st.binary(max_size=NAME_BYTES).map(lambda name: name.rstrip(b"\0").decode("utf-8", "surrogateescape"))
SAMPLES = st.tuples(U64, U64).map(lambda ends: (ends[0], *[0] * (SAMPLE_COUNT - 2), ends[1]))

FIELDS_AT = {
    "version": ("<I", 8),
    "flags": ("<I", 12),
    "uuid": ("<16s", 16),
    "sequence": ("<Q", 32),
    "log_bytes": ("<Q", 40),
    "data_start": ("<Q", 48),
    "page_bytes": ("<I", 56),
    "sample_count": ("<I", 60),
    "origin_bytes": ("<Q", 64),
    "oldest": ("<Q", 72),
    "oldest_place": ("<Q", 80),
    "destaged": ("<Q", 88),
    "destaged_place": ("<Q", 96),
    "destaged_previous": ("<Q", 104),
    "destaged_generation": ("<Q", 112),
    "destaged_time_ns": ("<Q", 120),
    "batch_end": ("<Q", 128),
    "committed": ("<Q", 136),
    "written_ns": ("<Q", 144),
}
FACTS_AT = 3840
EPOCHS_AT = 152
FILL_AT = 712
RESERVED = (
    *range(156, 160), *range(504, 512), *range(FACTS_AT + 4, FACTS_AT + 8),
    *range(FACTS_AT + 224, CHECKSUM_AT),
)  # fmt: skip
TAGS_AT, TAG_BYTES = 1024, TAG_NAME_BYTES + 3 * 8
TAG_NAMES = st.text("aZ09 .-_@é→漢🙂", min_size=1, max_size=16)


@st.composite
def superblocks(draw):
    """Any superblock that may be written."""
    log_bytes = draw(st.integers(MIN_LOG_BYTES // PAGE_BYTES, 2**50)) * PAGE_BYTES
    oldest, destaged, committed = sorted(draw(st.tuples(*[st.integers(1, 2**62)] * 3)))
    oldest_place = draw(st.integers(0, 2**60))
    names = draw(st.lists(TAG_NAMES, max_size=3, unique=True))
    batch_end = draw(st.integers(destaged, committed if names else 2**63))
    origin_bytes, is_inconsistent = draw(U64), draw(st.booleans())
    blocks = -(-origin_bytes // PAGE_BYTES)
    counted, filled = sorted(draw(st.tuples(*[st.integers(0, blocks)] * 2)))
    return Superblock(
        uuid=draw(st.binary(min_size=16, max_size=16)),
        sequence=draw(U64),
        log_bytes=log_bytes,
        origin_bytes=origin_bytes,
        origin_name=draw(NAMES),
        samples=draw(SAMPLES),
        oldest=oldest,
        oldest_place=oldest_place,
        destaged=destaged,
        destaged_place=oldest_place + draw(st.integers(0, (log_bytes - DATA_START) // PAGE_BYTES)),
        destaged_previous=draw(U64),
        destaged_generation=draw(U64),
        destaged_time_ns=draw(U64),
        batch_end=batch_end,
        committed=committed,
        written_ns=draw(U64),
        tags=tuple(Tag(name, draw(U64), draw(st.integers(batch_end, committed)), draw(U64)) for name in names),
        **dict(zip(("epoch", "history"), draw(epochs(committed)), strict=True)),
        is_copy=is_inconsistent or draw(st.booleans()),
        has_own_origins=is_inconsistent or draw(st.booleans()),
        is_inconsistent=is_inconsistent,
        fill=Fill(filled, counted, draw(U64), *draw(bases(blocks))) if is_inconsistent else NO_FILL,
        regions_sum=draw(U64) if is_inconsistent else 0,
    )


@st.composite
def bases(draw, blocks):
    """Base, begin and reach of a fill."""
    base, begin = sorted(draw(st.tuples(U64, U64)))
    return base, begin, draw(st.integers(0, blocks)) if base else 0


@st.composite
def epochs(draw, committed):
    """An epoch and the history that leads to it."""
    numbers = sorted(draw(st.sets(st.integers(1, LAST_NUMBER), max_size=HISTORY_LENGTH)))
    lsns = sorted(draw(st.sets(st.integers(1, committed), max_size=len(numbers))))
    ids = st.integers(1, 2**64 - 1)
    history = tuple(
        Switch(Epoch(number, draw(ids)), lsn, draw(U64)) for number, lsn in zip(numbers, lsns, strict=False)
    )
    if not history:
        return draw(st.just(NO_EPOCH) | st.builds(Epoch, st.integers(1, LAST_NUMBER), ids)), ()
    last = history[-1].epoch
    later = st.builds(Epoch, st.integers(min(last.number + 1, LAST_NUMBER), LAST_NUMBER), ids)
    return draw(st.just(last) | later if last.number < LAST_NUMBER else st.just(last)), history


def example():
    return Superblock(
        uuid=bytes(range(16)),
        sequence=7,
        log_bytes=MIN_LOG_BYTES,
        origin_bytes=10**9 * 512,
        origin_name="/dev/sdb",
        samples=tuple(range(100, 100 + SAMPLE_COUNT)),
        oldest=1000,
        oldest_place=900,
        destaged=1100,
        destaged_place=1050,
        destaged_previous=0xABCDEF,
        destaged_generation=55,
        destaged_time_ns=10**18,
        batch_end=1200,
        committed=1300,
        written_ns=10**18 + 1,
        tags=(Tag("before the upgrade", 60, 1200, 10**18 + 2), Tag("danach → später", 61, 1300, 10**18 + 3)),
        epoch=Epoch(12, 0xABCDEF),
        history=(Switch(Epoch(9, 0x123), 950, 0x99), Switch(Epoch(11, 0x456), 1000, 0x88)),
    )


def sealed(page):
    """The page with a right checksum."""
    body = bytes(page[:CHECKSUM_AT])
    return body + struct.pack("<Q", xxh3_64_intdigest(body))


def altered(**changes):
    """The example with some fields replaced, and a right checksum."""
    page = bytearray(encode(example()))
    for name, value in changes.items():
        layout, position = FIELDS_AT[name]
        struct.pack_into(layout, page, position, value)
    return sealed(page)


def test_sizes():
    assert len(encode(example())) == PAGE_BYTES
    assert example().data_pages == (MIN_LOG_BYTES - DATA_START) // PAGE_BYTES
    assert all(offset % PAGE_BYTES == 0 and offset + PAGE_BYTES <= DATA_START for offset in SLOT_OFFSETS)


def test_where_fields_are():
    """A layout that no change may move without a new version."""
    page, superblock = encode(example()), example()
    assert page[:8] == MAGIC
    constants = {
        "version": VERSION, "flags": 0, "data_start": DATA_START, "page_bytes": PAGE_BYTES, "sample_count": SAMPLE_COUNT
    }  # fmt: skip
    for name, (layout, position) in FIELDS_AT.items():
        expected = constants[name] if name in constants else getattr(superblock, name)
        assert struct.unpack_from(layout, page, position) == (expected,), name
    assert page[512:FILL_AT] == b"/dev/sdb".ljust(NAME_BYTES, b"\0")
    assert not any(page[FILL_AT:768])
    assert struct.unpack_from("<IIQ", page, EPOCHS_AT) == (12, 0, 0xABCDEF)
    assert struct.unpack_from("<IQQQIQQQ", page, EPOCHS_AT + 16) == (9, 0x123, 950, 0x99, 11, 0x456, 1000, 0x88)
    assert not any(page[EPOCHS_AT + 16 + 2 * 28 : 512])
    assert struct.unpack_from("<32Q", page, 768) == superblock.samples
    for number, tag in enumerate(superblock.tags):
        slot = page[TAGS_AT + number * TAG_BYTES :][:TAG_BYTES]
        assert slot == tag.name.encode().ljust(TAG_NAME_BYTES, b"\0") + struct.pack("<3Q", *tag[1:])
    assert not any(page[TAGS_AT + len(superblock.tags) * TAG_BYTES : CHECKSUM_AT])
    assert not any(page[at] for at in RESERVED)
    assert struct.unpack_from("<Q", page, CHECKSUM_AT) == (xxh3_64_intdigest(page[:CHECKSUM_AT]),)


@settings(max_examples=50)
@given(superblocks())
def test_round_trip(superblock):
    page = encode(superblock)
    assert decode(memoryview(page)) == superblock


def test_a_long_name_loses_its_beginning():
    name = "/deep" * 200 + "/origin"
    assert decode(memoryview(encode(example().with_changes(origin_name=name)))).origin_name == name[-NAME_BYTES:]


def test_every_single_bit_flip_is_refused():
    page = bytearray(encode(example()))
    for position in range(PAGE_BYTES):
        for bit in range(8):
            page[position] ^= 1 << bit
            with pytest.raises(FormatError) as refusal:
                decode(memoryview(page))
            assert not isinstance(refusal.value, NewerVersionError)
            page[position] ^= 1 << bit
    assert decode(memoryview(page)) == example()


def test_reserved_bytes_have_to_be_zero():
    page = bytearray(encode(example()))
    for position in RESERVED:
        page[position] = 1
        with pytest.raises(FormatError, match=r"contradicts|that no wbcache writes"):
            decode(memoryview(sealed(page)))
        page[position] = 0


def with_old_name(version, name):
    """The example as version 4 or 5 writes it, with another name, of up to 256 bytes."""
    page = bytearray(encode(example()))
    struct.pack_into("<I", page, 8, version)
    page[512:768] = name.ljust(256, b"\0")
    return memoryview(sealed(page))


def without_tags(version):
    """The example as that version writes it when there are no tags."""
    page = bytearray(encode(example().with_changes(tags=())))
    struct.pack_into("<I", page, 8, version)
    if version < 4:
        page[EPOCHS_AT:768] = bytes(104) + b"/dev/sdb".ljust(512, b"\0")
    return memoryview(sealed(page))


def test_version_1_is_version_2_without_tags_is_version_3_without_facts():
    plain = example().with_changes(tags=(), epoch=NO_EPOCH, history=())
    assert [decode(without_tags(version)) for version in (1, 2, 3)] == [plain] * 3
    with pytest.raises(FormatError, match="data where zeros belong"):
        decode(memoryview(altered(version=1)))
    page = bytearray(encode(example().with_changes(epoch=NO_EPOCH, history=(), origin_name="")))
    struct.pack_into("<I", page, 8, 1)
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(sealed(page)))
    page = bytearray(encode(plain.with_changes(origin_facts=OriginFacts(FILE, inode=7), origin_name="")))
    assert decode(memoryview(page)).origin_facts.inode == 7
    for version in (1, 2):
        struct.pack_into("<I", page, 8, version)
        with pytest.raises(FormatError, match="contradicts"):
            decode(memoryview(sealed(page)))


def test_a_name_that_was_longer_keeps_its_end():
    page = bytearray(without_tags(3))
    page[256:768] = b"/" + b"x" * 255 + b"y" * 256
    old = decode(memoryview(sealed(page)))
    assert old.origin_name == "/" + "x" * 255 + "y" * 256
    assert decode(memoryview(encode(old))).origin_name == "y" * NAME_BYTES


@pytest.mark.parametrize("version", [4, 5])
def test_a_name_of_256_bytes_keeps_its_end(version):
    old = decode(with_old_name(version, b"/" + b"x" * 100 + b"y" * 155))
    assert (old.origin_name, old.fill) == ("/" + "x" * 100 + "y" * 155, NO_FILL)
    assert old.with_changes(origin_name="/dev/sdb") == example()
    written = decode(memoryview(encode(old)))
    assert (written.origin_name, written.version) == ("x" * (NAME_BYTES - 155) + "y" * 155, VERSION)


def test_the_longest_history():
    history = tuple(Switch(Epoch(number + 1, 2**64 - 1), 1000 + number, 2**64 - 1) for number in range(HISTORY_LENGTH))
    superblock = example().with_changes(epoch=Epoch(LAST_NUMBER, 1), history=history)
    assert decode(memoryview(encode(superblock))) == superblock


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [
        (0, "<I", 0),
        (0, "<I", 10),
        (8, "<Q", 0),
        (16, "<I", 0),
        (16, "<I", 11),
        (16, "<I", 12),
        (20, "<Q", 0),
        (28, "<Q", 0),
        (28, "<Q", 1000),
        (44, "<I", 12),
        (44, "<I", 9),
        (56, "<Q", 950),
        (56, "<Q", 1301),
        (16 + 3 * 28, "<I", 12),
        (16 + 11 * 28, "<B", 1),
    ],
    ids=str,
)
def test_impossible_epochs_are_refused(at, layout, value):
    page = bytearray(encode(example()))
    struct.pack_into(layout, page, EPOCHS_AT + at, value)
    with pytest.raises(FormatError, match=r"epochs that no wbcache writes|contradicts"):
        decode(memoryview(sealed(page)))


def test_the_most_and_longest_tags():
    tags = tuple(Tag(f"{number:02d}" + "x" * (TAG_NAME_BYTES - 2), 60, 1250, 7) for number in range(TAG_COUNT))
    superblock = example().with_changes(tags=tags)
    assert decode(memoryview(encode(superblock))) == superblock


@pytest.mark.parametrize(
    ("slot", "fields"),
    [
        (0, (b"", 60, 1200, 1)),
        (0, (b"", 0, 0, 1)),
        (0, (b"line\nend", 60, 1200, 1)),
        (0, (b"null\0inside", 60, 1200, 1)),
        (0, (b"\xff\xfe", 60, 1200, 1)),
        (0, (b"before the cursor", 60, 1199, 1)),
        (0, (b"beyond the end", 60, 1301, 1)),
        (0, ("danach → später".encode(), 60, 1200, 1)),
        (5, (b"behind a gap", 60, 1200, 1)),
    ],
    ids=str,
)
def test_impossible_tags_are_refused(slot, fields):
    page = bytearray(encode(example()))
    struct.pack_into(f"<{TAG_NAME_BYTES}s3Q", page, TAGS_AT + slot * TAG_BYTES, *fields)
    with pytest.raises(FormatError):
        decode(memoryview(sealed(page)))


def test_altered_changes_what_it_says():
    assert decode(memoryview(altered(sequence=8))) == example().with_changes(sequence=8)


@pytest.mark.parametrize("version", [VERSION + 1, 2**32 - 1])
def test_a_newer_version_is_told_from_damage(version):
    with pytest.raises(NewerVersionError, match=f"version {version}"):
        decode(memoryview(altered(version=version)))
    with pytest.raises(NewerVersionError):
        decode(memoryview(altered(version=version, flags=9, page_bytes=65536)))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"flags": 4},
        {"flags": 5},
        {"flags": 6},
        {"flags": 8},
        {"flags": 15},
        {"flags": 2**31},
        {"data_start": DATA_START * 2},
        {"page_bytes": 8192},
        {"sample_count": 31},
        {"log_bytes": MIN_LOG_BYTES - PAGE_BYTES},
        {"log_bytes": MIN_LOG_BYTES + 512},
        {"oldest": 0},
        {"oldest": 1101},
        {"destaged": 999},
        {"destaged": 1201},
        {"destaged": 1301, "batch_end": 1301},
        {"committed": 1099},
        {"batch_end": 1099},
        {"oldest_place": 1051},
        {"destaged_place": 900 + example().data_pages + 1},
    ],
    ids=str,
)
def test_contradictions_are_refused(changes):
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(altered(**changes)))


@pytest.mark.parametrize("page", [bytes(PAGE_BYTES), b"\xff" * PAGE_BYTES, b"text" * 1024])
def test_other_data_is_no_superblock(page):
    with pytest.raises(FormatError, match="no superblock"):
        decode(memoryview(page))


def decode_or_refuse(page):
    try:
        superblock = decode(memoryview(page))
    except FormatError:
        return
    again = bytearray(encode(superblock))
    again[8:12] = page[8:12]
    if len(superblock.origin_name.encode("utf-8", "surrogateescape")) > NAME_BYTES:
        # Only an older version has so long a name. It is cut when it is written.
        assert superblock.version < VERSION
        again[256:768] = page[256:768]
    assert sealed(again) == page, "it is valid, so writing it again gives the same bytes, but for an older version"


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_are_decoded_or_refused(start, seed):
    decode_or_refuse(start + random.Random(seed).randbytes(PAGE_BYTES - len(start)))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_the_magic_are_decoded_or_refused(content, seal):
    page = (MAGIC + content).ljust(PAGE_BYTES, b"\0")
    decode_or_refuse(sealed(page) if seal else page)


@settings(max_examples=50)
@given(superblocks(), st.lists(st.tuples(st.integers(8, 1100), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_under_a_right_checksum_are_decoded_or_refused(superblock, changes):
    page = bytearray(encode(superblock))
    for position, value in changes:
        page[position] = value
    decode_or_refuse(sealed(page))


@pytest.mark.parametrize(("flags", "is_copy", "has_own_origins"), [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)])
def test_each_flag_is_read_again(flags, is_copy, has_own_origins):
    superblock = example().with_changes(is_copy=bool(is_copy), has_own_origins=bool(has_own_origins))
    page = encode(superblock)
    assert struct.unpack_from("<I", page, 12) == (flags,)
    assert decode(memoryview(page)) == superblock


@pytest.mark.parametrize("flags", range(2, 8))
def test_version_5_has_one_flag(flags):
    page = bytearray(altered(version=5, flags=1))
    assert decode(memoryview(page)) == example().with_changes(is_copy=True)
    struct.pack_into("<I", page, 12, flags)
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(sealed(page)))


def test_the_copy_of_a_standby():
    copy = example().with_changes(is_copy=True)
    page = encode(copy)
    assert struct.unpack_from("<I", page, 12) == (1,)
    assert decode(memoryview(page)) == copy != example()


@pytest.mark.parametrize("version", [3, 4])
def test_older_versions_have_no_flags(version):
    page = bytearray(encode(example().with_changes(epoch=NO_EPOCH, history=(), origin_name="")))
    struct.pack_into("<I", page, 8, version)
    assert not decode(memoryview(sealed(page))).is_copy
    struct.pack_into("<I", page, 12, 1)
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(sealed(page)))

# SPDX-License-Identifier: BSD-3-Clause
"""The bytes of a segment descriptor."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from wbcache_core.errors import FormatError
from wbcache_core.format.answers import LOG, NO_ANSWERS, ORIGIN, PEER, RAM, Answers
from wbcache_core.format.epoch import LAST_NUMBER, NO_EPOCH, Epoch
from wbcache_core.format.segment import (
    BLOCK_MASK,
    FRAME_COUNT,
    FRAME_PAGES,
    KIND_SHIFT,
    MAGIC,
    MAX_ENTRIES,
    MAX_SEGMENT_PAGES,
    PAGE,
    RAW,
    TRIM,
    VERSION,
    ZERO,
    ZSTD,
    Descriptor,
    decode,
    encode,
    has_magic,
)
from wbcache_core.units import PAGE_BYTES

U64 = st.integers(0, 2**64 - 1)
BLOCKS = st.integers(0, BLOCK_MASK)
NO_FRAMES = (0,) * FRAME_COUNT
CHECKSUM_AT = PAGE_BYTES - 8
ENTRIES_AT = 152


@st.composite
def descriptors(draw):
    """Any descriptor that a writer may write."""
    entries = draw(st.lists(st.tuples(st.sampled_from([PAGE, PAGE, TRIM, ZERO]), BLOCKS, U64), max_size=6))
    entries = (entries * draw(st.integers(1, MAX_ENTRIES)))[:MAX_ENTRIES]
    page_count = sum(kind == PAGE for kind, _, _ in entries)
    frames, payload_bytes, encoding = NO_FRAMES, page_count * PAGE_BYTES, RAW
    if page_count and draw(st.booleans()):
        used = -(-page_count // FRAME_PAGES)
        lengths = [draw(st.integers(1, full) | st.just(full)) for full in whole_frames(page_count)]
        if sum(lengths) < payload_bytes:
            frames, payload_bytes, encoding = (*lengths, *NO_FRAMES[used:]), sum(lengths), ZSTD
    first_lsn = draw(st.integers(1, 2**62))
    return Descriptor(
        encoding=encoding,
        page_count=page_count,
        uuid=draw(st.binary(min_size=16, max_size=16)),
        first_lsn=first_lsn,
        time_ns=draw(U64),
        committed=draw(st.integers(0, first_lsn)),
        generation=draw(U64),
        previous=draw(U64),
        payload_bytes=payload_bytes,
        frame_lengths=frames,
        entry_words=tuple(kind << KIND_SHIFT | block for kind, block, _ in entries),
        arguments=tuple(argument for _, _, argument in entries),
        **draw(st.sampled_from([{"version": 1}, {"version": 2}]) | later_fields()),
    )


def whole_frames(page_count):
    """The lengths of frames that are stored as they are."""
    return [min(FRAME_PAGES, page_count - first) * PAGE_BYTES for first in range(0, page_count, FRAME_PAGES)]


def later_fields():
    """What descriptors have since version 3."""
    levels = st.integers(RAM, ORIGIN)
    return st.fixed_dictionaries(
        {
            "version": st.just(3),
            "epoch": st.builds(Epoch, st.integers(1, LAST_NUMBER) | st.just(LAST_NUMBER), st.integers(1, 2**64 - 1)),
            "answers": st.builds(Answers, levels, levels),
        }
    )


def encoded(descriptor):
    page = bytearray(b"\xee" * PAGE_BYTES)
    encode(descriptor, memoryview(page))
    return page


def sealed(page):
    """The page with a right checksum."""
    return memoryview(bytes(page[:CHECKSUM_AT]) + struct.pack("<Q", xxh3_64_intdigest(bytes(page[:CHECKSUM_AT]))))


def example():
    return Descriptor(
        encoding=RAW, page_count=2, uuid=bytes(range(16)), first_lsn=100, time_ns=5, committed=90, generation=3,
        previous=77, payload_bytes=2 * PAGE_BYTES, frame_lengths=NO_FRAMES,
        entry_words=(4711, TRIM << KIND_SHIFT | 512, 4712), arguments=(111, 1024, 222),
        epoch=Epoch(7, 0x1122334455667788), answers=Answers(RAM, PEER),
    )  # fmt: skip


def test_sizes():
    assert MAX_SEGMENT_PAGES == 1 + MAX_ENTRIES
    assert FRAME_COUNT * FRAME_PAGES >= MAX_ENTRIES
    assert len(encoded(example())) == PAGE_BYTES


def test_where_fields_are():
    """A layout that no change may move without a new version."""
    page = encoded(example())
    assert struct.unpack_from("<8sHBBHH16sQQQQQI12sIIQ48s", page) == (
        MAGIC, VERSION, RAW, 0x41, 3, 2, bytes(range(16)), 100, 5, 90, 3, 77, 2 * PAGE_BYTES, bytes(12), 7, 0,
        0x1122334455667788, bytes(48),
    )  # fmt: skip
    assert struct.unpack_from("<6Q", page, ENTRIES_AT) == (4711, 111, TRIM << 56 | 512, 1024, 4712, 222)
    assert not any(page[ENTRIES_AT + 48 : CHECKSUM_AT])
    assert struct.unpack_from("<Q", page, CHECKSUM_AT) == (xxh3_64_intdigest(bytes(page[:CHECKSUM_AT])),)


def test_what_follows_from_the_fields():
    descriptor = example()
    assert descriptor.end_lsn == 103
    assert descriptor.log_pages == 3
    descriptor.payload_bytes = PAGE_BYTES + 1
    assert descriptor.log_pages == 3
    descriptor.payload_bytes = 0
    assert descriptor.log_pages == 1


@settings(max_examples=50)
@given(descriptors())
def test_round_trip(descriptor):
    page = encoded(descriptor)
    assert has_magic(memoryview(page))
    found = decode(memoryview(page))
    assert found == descriptor
    assert encoded(found) == page


def test_encode_tells_the_checksum():
    descriptor = example()
    page = bytearray(PAGE_BYTES)
    assert encode(descriptor, memoryview(page)) == descriptor.checksum == decode(memoryview(page)).checksum


def test_every_single_bit_flip_is_refused():
    page = encoded(example())
    for position in range(PAGE_BYTES):
        for bit in range(8):
            page[position] ^= 1 << bit
            with pytest.raises(FormatError):
                decode(memoryview(page))
            page[position] ^= 1 << bit
    assert decode(memoryview(page)) == decode(memoryview(encoded(example())))


@pytest.mark.parametrize(
    "position",
    [*range(80, 88), *range(92, 96), *range(104, 152), ENTRIES_AT + 3 * 16, CHECKSUM_AT - 1],
    ids="byte {}".format,
)
def test_reserved_bytes_have_to_be_zero(position):
    page = encoded(example())
    assert page[position] == 0
    page[position] = 1
    with pytest.raises(FormatError, match=r"impossible|zeros|contradicts"):
        decode(sealed(page))


def altered(**changes):
    """A page with some header fields replaced, and a right checksum."""
    places = {
        "version": ("<H", 8), "encoding": ("<B", 10), "entry_count": ("<H", 12), "page_count": ("<H", 14),
        "first_lsn": ("<Q", 32), "committed": ("<Q", 48), "payload_bytes": ("<I", 72), "head": ("<Q", ENTRIES_AT),
        "answers": ("<B", 11), "epoch": ("<I", 88), "epoch_id": ("<Q", 96),
    }  # fmt: skip
    page = encoded(example())
    for name, value in changes.items():
        struct.pack_into(places[name][0], page, places[name][1], value)
    return sealed(page)


def test_altered_changes_what_it_says():
    assert decode(altered(first_lsn=91, committed=91)).committed == 91
    assert decode(altered(answers=0x22)).answers == Answers(LOG, LOG)
    assert decode(altered(epoch=LAST_NUMBER)).epoch == Epoch(LAST_NUMBER, 0x1122334455667788)


def compressed(page_count, lengths):
    return Descriptor(
        ZSTD, page_count, bytes(16), 1, 0, 1, 1, 0, sum(lengths), (*lengths, *NO_FRAMES[len(lengths) :]),
        tuple(range(page_count)), (0,) * page_count, epoch=Epoch(1, 1), answers=Answers(RAM, LOG),
    )  # fmt: skip


def test_a_frame_that_is_stored_as_it_is_has_length_0():
    page = encoded(compressed(35, (100, 16 * PAGE_BYTES, 3 * PAGE_BYTES)))
    assert struct.unpack_from("<16H", page, 120) == (100, 0, 0, *[0] * 13)
    assert decode(memoryview(page)).frame_lengths[:4] == (100, 16 * PAGE_BYTES, 3 * PAGE_BYTES, 0)


@pytest.mark.parametrize("length", [3 * PAGE_BYTES, 3 * PAGE_BYTES + 1, 65535])
def test_a_frame_longer_than_its_pages_is_refused(length):
    """Also one that says in numbers that it is as long as its pages: there is one way to write each segment."""
    page = encoded(compressed(35, (100, 200, 300)))
    struct.pack_into("<H", page, 124, length)
    struct.pack_into("<I", page, 72, 300 + length)
    with pytest.raises(FormatError, match="longer than its pages"):
        decode(sealed(page))


def test_what_the_last_version_wrote_is_read():
    """Its frames had 4 bytes each."""
    old = compressed(35, (100, 16 * PAGE_BYTES, 3 * PAGE_BYTES))
    old.version, old.epoch, old.answers = 2, NO_EPOCH, NO_ANSWERS
    page = encoded(old)
    assert struct.unpack_from("<16I", page, 88) == old.frame_lengths
    assert (page[8], page[11]) == (2, 0)
    assert decode(memoryview(page)) == old


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": VERSION + 1},
        {"encoding": 2},
        {"entry_count": 247},
        {"entry_count": 65535},
        {"entry_count": 2},
        {"page_count": 3},
        {"page_count": 1},
        {"page_count": 4},
        {"first_lsn": 0, "committed": 0},
        {"committed": 101},
        {"payload_bytes": PAGE_BYTES},
        {"encoding": ZSTD},
        {"head": 3 << KIND_SHIFT},
        {"head": 2**64 - 1},
        {"answers": 0},
        {"answers": 0x01},
        {"answers": 0x10},
        {"answers": 0x16},
        {"answers": 0x61},
        {"epoch": 0},
        {"epoch_id": 0},
        {"epoch": 0, "epoch_id": 0},
        {"version": 2},
        {"version": 1},
    ],
    ids=str,
)
def test_contradictions_are_refused(changes):
    with pytest.raises(FormatError):
        decode(altered(**changes))


@pytest.mark.parametrize("page", [bytes(PAGE_BYTES), b"\xff" * PAGE_BYTES, b"text" * 1024])
def test_other_data_is_no_descriptor(page):
    assert not has_magic(memoryview(page))
    with pytest.raises(FormatError, match="no segment descriptor"):
        decode(memoryview(page))


def decode_or_refuse(page):
    try:
        descriptor = decode(memoryview(page))
    except FormatError:
        return
    assert encoded(descriptor) == page, "it is valid, so writing it again gives the same bytes"
    assert descriptor.end_lsn > descriptor.first_lsn > 0
    assert 1 <= descriptor.log_pages <= MAX_SEGMENT_PAGES
    assert sum(head <= BLOCK_MASK for head in descriptor.entry_words) == descriptor.page_count


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_are_decoded_or_refused(start, seed):
    decode_or_refuse(start + random.Random(seed).randbytes(PAGE_BYTES - len(start)))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_magic_and_version_are_decoded_or_refused(content, seal):
    page = (MAGIC + struct.pack("<H", VERSION) + content).ljust(PAGE_BYTES, b"\0")
    decode_or_refuse(bytes(sealed(page)) if seal else page)


@settings(max_examples=50)
@given(descriptors(), st.lists(st.tuples(st.integers(8, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_under_a_right_checksum_are_decoded_or_refused(descriptor, changes):
    page = encoded(descriptor)
    for position, value in changes:
        page[position] = value
    decode_or_refuse(bytes(sealed(page)))

# SPDX-License-Identifier: BSD-3-Clause
"""The head of a piece of the volume: what is written is read, anything else is refused, and docs/standby-state.md shows
a real one."""

import dataclasses
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.unit.test_format_example import dumped_page
from wbcache_core.errors import FormatError
from wbcache_core.format.epoch import LAST_NUMBER, Epoch
from wbcache_core.format.fill_piece import MAGIC, MAX_BLOCKS, FillPiece, decode, encode, is_fill_piece
from wbcache_core.units import PAGE_BYTES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "standby-state.md"
DATA = b"A" * PAGE_BYTES
EXAMPLE = FillPiece(
    uuid=bytes.fromhex("00112233445566778899aabbccddeeff"), epoch=Epoch(4, 0x0404040404040404), block=8192,
    block_count=1, first_lsn=97, end_lsn=99, data_sum=0xA03DE37A157C16BD, is_zero=False,
)  # fmt: skip
ZEROS = dataclasses.replace(EXAMPLE, data_sum=0, is_zero=True)
UNCHANGED = dataclasses.replace(EXAMPLE, data_sum=0, is_unchanged=True)
CHECKSUM_AT = PAGE_BYTES - 8


def sealed(page):
    body = bytes(page[:CHECKSUM_AT])
    return memoryview(body + struct.pack("<Q", xxh3_64_intdigest(body)))


def decode_or_refuse(page):
    """Whether it is one; any other error than FormatError fails the test."""
    try:
        piece = decode(memoryview(page))
    except FormatError:
        return False
    assert encode(piece) == page, "it is valid, so writing it again gives the same bytes"
    return True


def test_the_example_is_what_the_code_writes():
    page = dumped_page("piece", DOCUMENT)
    assert decode(memoryview(page)) == EXAMPLE
    assert encode(EXAMPLE) == page
    assert xxh3_64_intdigest(DATA) == EXAMPLE.data_sum


def test_where_fields_are():
    page = encode(dataclasses.replace(EXAMPLE, block=0x1111, block_count=0x22))
    assert page[:8] == MAGIC
    assert struct.unpack_from("<II", page, 8) == (1, 0)
    assert page[16:32] == EXAMPLE.uuid
    assert struct.unpack_from("<7Q", page, 32) == (*EXAMPLE.epoch, 0x1111, 0x22, 97, 99, EXAMPLE.data_sum)
    assert not any(page[88:CHECKSUM_AT])
    assert struct.unpack_from("<I", encode(ZEROS), 12) == (1,)
    assert struct.unpack_from("<I", encode(UNCHANGED), 12) == (2,)


@given(
    st.builds(
        FillPiece,
        uuid=st.binary(min_size=16, max_size=16),
        epoch=st.builds(Epoch, st.integers(1, LAST_NUMBER), st.integers(1, 2**64 - 1)),
        block=st.integers(0, 2**64 - 1),
        block_count=st.integers(1, MAX_BLOCKS),
        first_lsn=st.integers(1, 2**40),
        end_lsn=st.integers(2**40, 2**64 - 1),
        data_sum=st.integers(0, 2**64 - 1),
        is_zero=st.just(False),
    )
)
def test_round_trip(piece):
    assert decode(memoryview(encode(piece))) == piece


@pytest.mark.parametrize("one", [ZEROS, UNCHANGED], ids=["zeros", "unchanged"])
@pytest.mark.parametrize("count", [1, MAX_BLOCKS, MAX_BLOCKS + 1, 2**52])
def test_without_data_it_has_any_length(count, one):
    piece = dataclasses.replace(one, block_count=count)
    assert decode(memoryview(encode(piece))) == piece


def test_no_lsn_between():
    piece = dataclasses.replace(EXAMPLE, first_lsn=99)
    assert decode(memoryview(encode(piece))) == piece


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": Epoch(0, 0)},
        {"epoch": Epoch(0, 1)},
        {"epoch": Epoch(1, 0)},
        {"epoch": Epoch(LAST_NUMBER + 1, 1)},
        {"block_count": 0},
        {"block_count": MAX_BLOCKS + 1},
        {"first_lsn": 0},
        {"first_lsn": 100},
        {"is_zero": True},
        {"is_unchanged": True},
        {"is_zero": True, "is_unchanged": True, "data_sum": 0},
    ],
    ids=str,
)
def test_contradictions_are_refused(changes):
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(encode(dataclasses.replace(EXAMPLE, **changes))))


@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (0, b"WBCFILL2", "no piece"),
        (8, b"\x00", "version 0"),
        (8, b"\x02", "version 2"),
        (12, b"\x02", "contradicts"),
        (12, b"\x04", "contradicts"),
        (15, b"\x80", "contradicts"),
        (88, b"\x01", "contradicts"),
        (CHECKSUM_AT - 1, b"\x01", "contradicts"),
    ],
    ids=str,
)
def test_what_no_wbcache_writes_is_refused(at, content, words):
    page = bytearray(encode(EXAMPLE))
    page[at : at + len(content)] = content
    with pytest.raises(FormatError, match=words):
        decode(sealed(page))


def test_zeros_of_no_length_are_refused():
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(encode(dataclasses.replace(ZEROS, block_count=0))))


@pytest.mark.parametrize("length", [0, 7, 8, 4095, 4097])
def test_another_length_is_refused(length):
    with pytest.raises(FormatError):
        decode(memoryview(encode(EXAMPLE).ljust(length, b"\0")[:length]))


def test_it_is_told_from_other_pages():
    assert is_fill_piece(memoryview(encode(EXAMPLE)))
    assert not is_fill_piece(memoryview(bytes(PAGE_BYTES)))


@given(st.integers(0, PAGE_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at, change):
    page = bytearray(encode(EXAMPLE))
    page[at] ^= change
    with pytest.raises(FormatError):
        decode(memoryview(page))


@given(st.lists(st.tuples(st.integers(8, 100), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_changed_bytes_under_a_right_checksum_are_decoded_or_refused(changes, is_zero):
    page = bytearray(encode(ZEROS if is_zero else EXAMPLE))
    for position, value in changes:
        page[position] = value
    decode_or_refuse(sealed(page))


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_any_bytes_are_refused(start, seed):
    assert not decode_or_refuse(start + random.Random(seed).randbytes(PAGE_BYTES - len(start)))

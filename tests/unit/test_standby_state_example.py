# SPDX-License-Identifier: BSD-3-Clause
"""The state page and the standing: what is written is read, anything else is refused, and docs/standby-state.md shows
real ones."""

import dataclasses
import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.unit.test_format_example import dumped_page
from wbcache_core.errors import FormatError
from wbcache_core.format import peer_standing
from wbcache_core.format.epoch import Epoch, Switch
from wbcache_core.format.peer_standing import Standing
from wbcache_core.format.standby_state import StandbyState, blank, decode, encode
from wbcache_core.format.superblock import NO_FILL, Fill
from wbcache_core.units import MIB, PAGE_BYTES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "standby-state.md"
EPOCH = Epoch(4, 0x0404040404040404)
EXAMPLE = StandbyState(
    uuid=bytes.fromhex("00112233445566778899aabbccddeeff"), log_bytes=32 * MIB, used_bytes=16 * MIB,
    origin_bytes=64 * MIB, head=99, head_place=98, previous=0x8A6B6D459AE85DE2, oldest=33, oldest_place=32,
    destaged=97, batch_end=97, epoch=EPOCH,
    history=(Switch(Epoch(2, 0x0202020202020202), 33, 0x3333333333333333), Switch(EPOCH, 97, 0x0123456789ABCDEF)),
    has_own_origins=True, is_inconsistent=True, fill=Fill(8192, 4096, 99, 20, 97, 12288), own_bytes=64 * MIB,
)  # fmt: skip
STANDING = Standing(
    EXAMPLE.uuid, EPOCH, lsn=99, is_complete=True, may_be_left_out=False, sign_ms=3333, safe=99, committed=99,
    everywhere=97,
)  # fmt: skip


def sealed(page):
    page[-8:] = struct.pack("<Q", xxh3_64_intdigest(bytes(page[:-8])))
    return memoryview(page)


def test_the_example_is_what_the_code_writes():
    page = dumped_page("state", DOCUMENT)
    assert decode(memoryview(page)) == EXAMPLE
    assert encode(EXAMPLE) == page


def test_a_blank_one():
    assert decode(memoryview(encode(blank(5 * MIB)))) == blank(5 * MIB)
    with_origin = blank(5 * MIB, own_bytes=MIB)
    assert decode(memoryview(encode(with_origin))) == with_origin != blank(5 * MIB)
    assert blank(5 * MIB).is_blank and with_origin.is_blank and not EXAMPLE.is_blank


@given(st.integers(0, PAGE_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at, change):
    page = bytearray(encode(EXAMPLE))
    page[at] ^= change
    with pytest.raises(FormatError):
        decode(memoryview(page))


@pytest.mark.parametrize(
    ("at", "content"),
    [
        (0, b"WBCSTBY2"),
        (8, b"\x01"),
        (8, b"\x03"),
        (12, b"\x07"),
        (12, b"\x16"),
        (12, b"\x02"),
        (12, b"\x04"),
        (56, bytes(8)),
        (0x300, b"\x01"),
        (96, b"\xff" * 8),
        (480, struct.pack("<Q", 4095)),
        (480, struct.pack("<Q", 16385)),
        (504, struct.pack("<Q", 98)),
        (504, bytes(8)),
        (520, struct.pack("<Q", 16385)),
    ],
    ids=[
        "magic", "version 1", "version 3", "flag 1", "flag 16", "a fill without flag 4", "flag 4 without flag 2",
        "head below oldest", "data where zeros belong", "destaged above head", "less filled than counts",
        "more filled than there is", "base above begin", "reach without base", "reach beyond the end",
    ],
)
def test_what_no_wbcache_writes_is_refused(at, content):
    page = bytearray(encode(EXAMPLE))
    page[at : at + len(content)] = content
    with pytest.raises(FormatError):
        decode(sealed(page))


@pytest.mark.parametrize("flags", [2, 4, 8], ids=str)
def test_a_blank_one_has_no_flags_of_a_superblock(flags):
    page = bytearray(encode(blank(5 * MIB)))
    page[12] = flags
    with pytest.raises(FormatError):
        decode(sealed(page))


@pytest.mark.parametrize(("is_own", "own_bytes"), itertools.product((False, True), (0, MIB)), ids=str)
def test_each_flag_of_a_state_is_read_again(is_own, own_bytes):
    state = dataclasses.replace(
        EXAMPLE, has_own_origins=is_own, own_bytes=own_bytes, is_inconsistent=False, fill=NO_FILL
    )
    assert decode(memoryview(encode(state))) == state


@given(st.integers(0, 16384).flatmap(lambda filled: st.tuples(st.just(filled), st.integers(0, filled))))
def test_each_fill_is_read_again(blocks):
    state = dataclasses.replace(EXAMPLE, fill=Fill(*blocks, 2**64 - 1))
    assert decode(memoryview(encode(state))) == state


def test_an_origin_that_fails_is_one_of_its_own():
    failing = dataclasses.replace(EXAMPLE, is_failing=True)
    assert decode(memoryview(encode(failing))) == failing
    with pytest.raises(FormatError):
        decode(memoryview(encode(dataclasses.replace(failing, own_bytes=0))))


def test_what_is_given_up_is_read_again():
    state = dataclasses.replace(EXAMPLE, given_up_from=98)
    assert decode(memoryview(encode(state))) == state


def test_the_standing_in_the_example_is_what_the_code_writes():
    page = dumped_page("standing", DOCUMENT)
    assert peer_standing.decode(memoryview(page)) == STANDING
    assert peer_standing.encode(STANDING) == page


@pytest.mark.parametrize("flags", itertools.product((False, True), repeat=3), ids=str)
def test_each_flag_of_a_standing_is_read_again(flags):
    standing = Standing(EXAMPLE.uuid, EPOCH, 99, flags[0], flags[1], 1000, flags[2])
    page = memoryview(peer_standing.encode(standing))
    assert peer_standing.decode(page) == standing
    assert peer_standing.is_standing(page) and not peer_standing.is_standing(memoryview(encode(EXAMPLE)))


@given(st.integers(0, PAGE_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_standing_is_noticed(at, change):
    page = bytearray(peer_standing.encode(STANDING))
    page[at] ^= change
    with pytest.raises(FormatError):
        peer_standing.decode(memoryview(page))


@pytest.mark.parametrize(
    ("at", "content"), [(8, b"\x01"), (8, b"\x03"), (12, b"\x09"), (96, b"\x01"), (0x300, b"\x01")], ids=str
)
def test_a_standing_that_no_wbcache_writes_is_refused(at, content):
    page = bytearray(peer_standing.encode(STANDING))
    page[at : at + len(content)] = content
    with pytest.raises(FormatError):
        peer_standing.decode(sealed(page))

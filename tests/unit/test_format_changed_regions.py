# SPDX-License-Identifier: BSD-3-Clause
"""The map of changed regions: what is written is read, anything else is refused, and docs/format.md shows one."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_format_example import dumped_page
from wbcache_core.errors import FormatError
from wbcache_core.format import superblock
from wbcache_core.format.changed_regions import (
    AREA_BYTES,
    AREA_OFFSETS,
    REGION_COUNT,
    ChangedRegions,
    checksum,
    decode,
    encode,
    shift_for,
)
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.units import PAGE_BYTES

UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
EXAMPLE = ChangedRegions(UUID, 4, 33, 97, 1 | 0xFF << 32)
REGIONS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, REGION_COUNT - 1)), max_size=30)


def test_the_example_is_what_the_code_writes():
    image = dumped_page("regions", length=AREA_BYTES)
    assert decode(memoryview(image)) == EXAMPLE
    assert encode(EXAMPLE) == image
    assert superblock.decode(memoryview(dumped_page("superblock"))).regions_sum == checksum(image)


def test_where_they_are():
    """Between the superblocks and the data area, where versions before had nothing."""
    assert AREA_OFFSETS == (4096, 36864) and AREA_BYTES == 20480
    taken = [*((at, at + PAGE_BYTES) for at in SLOT_OFFSETS), *((at, at + AREA_BYTES) for at in AREA_OFFSETS)]
    taken = sorted([*taken, (DATA_START, DATA_START)])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))


def test_where_fields_are():
    image = encode(ChangedRegions(UUID, 9, 0x1111, 0x2222).with_batch(0x3333, [0, 9, REGION_COUNT - 1]))
    assert image[:8] == b"WBCREGN1" and struct.unpack_from("<II", image, 8) == (1, 9)
    assert image[16:32] == UUID and struct.unpack_from("<QQ", image, 32) == (0x1111, 0x3333)
    assert image[4096:4098] == b"\x01\x02" and image[-1] == 0x80 and not any(image[4098:-1])
    assert not any(image[48:4096])


@given(st.integers(4, 63), st.integers(1, 2**63), st.integers(0, 2**62), REGIONS)
def test_round_trip(shift, since, more, regions):
    one = ChangedRegions(UUID, shift, since, since).with_batch(since + more, regions)
    assert decode(memoryview(encode(one))) == one
    assert one.bits.bit_count() == len(set(regions)) and one.until == since + more


@given(REGIONS, REGIONS)
def test_a_batch_adds_to_what_there_is(earlier, later):
    one = EXAMPLE.with_batch(100, earlier).with_batch(99, later)
    assert one.until == 100 and one.since == 33
    assert {region for region in range(REGION_COUNT) if one.bits >> region & 1} == {
        0, *range(32, 40), *earlier, *later
    }  # fmt: skip


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 1000), st.integers(1, 300))
def test_runs_are_those_of_a_slow_search(regions, block, most):
    one = ChangedRegions(UUID, 4, 1, 1).with_batch(2, regions)
    limit = block + most
    is_changed = block >> 4 in regions
    end = block
    while end < limit and (end >> 4 in regions) == is_changed:
        end += 1
    assert one.run_from(block, limit) == (is_changed, end)


def test_the_last_region():
    one = ChangedRegions(UUID, 4, 1, 1).with_batch(2, [REGION_COUNT - 1])
    end = REGION_COUNT << 4
    assert one.run_from(0, end) == (False, end - 16) and one.run_from(end - 16, end) == (True, end)


@pytest.mark.parametrize(
    ("size", "shift"), [(512, 4), (2**33, 4), (2**33 + 1, 5), (2**40, 11), (2**40 + 512, 12), (2**63, 34)]
)
def test_how_large_regions_are(size, shift):
    assert shift_for(size) == shift
    assert -(-size // PAGE_BYTES) - 1 >> shift < REGION_COUNT


@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (0, b"WBCREGN2", "no map"),
        (8, b"\x02", "version 2"),
        (12, b"\x03", "contradicts"),
        (12, b"\x40", "contradicts"),
        (32, bytes(8), "contradicts"),
        (32, struct.pack("<Q", 98), "contradicts"),
        (48, b"\x01", "contradicts"),
        (4095, b"\x01", "contradicts"),
    ],
    ids=str,
)
def test_what_no_wbcache_writes_is_refused(at, content, words):
    image = bytearray(encode(EXAMPLE))
    image[at : at + len(content)] = content
    with pytest.raises(FormatError, match=words):
        decode(memoryview(image))


@pytest.mark.parametrize("length", [0, 8, AREA_BYTES - 1, AREA_BYTES + 1])
def test_another_length_is_refused(length):
    with pytest.raises(FormatError):
        decode(memoryview(encode(EXAMPLE).ljust(length, b"\0")[:length]))


@given(st.integers(0, AREA_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_changes_the_checksum(at, change):
    image = bytearray(encode(EXAMPLE))
    image[at] ^= change
    assert checksum(image) not in (0, checksum(encode(EXAMPLE)))

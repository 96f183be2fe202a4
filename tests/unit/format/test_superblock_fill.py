# SPDX-License-Identifier: BSD-3-Clause
"""What a superblock says of an origin that is being filled, and of the map of changed regions."""

import struct

import pytest

from tests.unit.format.test_superblock import FILL_AT, example
from wbcache_core.errors import FormatError
from wbcache_core.format.superblock import NO_FILL, Fill, decode, encode
from wbcache_core.units import PAGE_BYTES

REGIONS_SUM_AT = 760


def being_filled(**changes):
    """The example as the standby writes it whose origin is being filled; it has 1000 whole blocks and a part of one."""
    return example().with_changes(
        is_copy=True, has_own_origins=True, is_inconsistent=True, origin_bytes=1000 * PAGE_BYTES + 512, **changes
    )


@pytest.mark.parametrize(
    "fill",
    [
        NO_FILL, Fill(7), Fill(7, 7), Fill(1001, 9, 1300), Fill(1001, 1001, 2**64 - 1), Fill(0, 0, 0, 5, 5),
        Fill(7, 3, 9, 800, 1000, 1001),
    ],
)  # fmt: skip
def test_how_far_an_origin_has_been_filled(fill):
    page = encode(being_filled(fill=fill))
    assert struct.unpack_from("<I", page, 12) == (7,)
    assert struct.unpack_from("<7Q", page, FILL_AT) == (*fill, 0)
    assert decode(memoryview(page)) == being_filled(fill=fill)


@pytest.mark.parametrize(
    "fill",
    [
        Fill(7, 8), Fill(1002), Fill(1002, 1001), Fill(0, 1), Fill(7, 7, 7, 9, 8), Fill(reach=1),
        Fill(0, 0, 0, 8, 9, 1002),
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_fill_is_refused(fill):
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(encode(being_filled(fill=fill))))


def test_only_nodes_with_origins_of_their_own_have_a_map_of_changed_regions():
    own = example().with_changes(has_own_origins=True, regions_sum=0x1234)
    assert struct.unpack_from("<Q", encode(own), REGIONS_SUM_AT) == (0x1234,)
    assert decode(memoryview(encode(own))) == own
    with pytest.raises(FormatError, match="contradicts"):
        decode(memoryview(encode(own.with_changes(has_own_origins=False))))


@pytest.mark.parametrize("fill", [Fill(1), Fill(1, 1), Fill(0, 0, 1), Fill(0, 0, 0, 1, 1)], ids=str)
def test_an_origin_that_is_complete_has_no_fill(fill):
    for is_copy in (False, True):
        page = encode(example().with_changes(is_copy=is_copy, has_own_origins=True, fill=fill))
        with pytest.raises(FormatError, match="contradicts"):
            decode(memoryview(page))

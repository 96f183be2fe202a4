# SPDX-License-Identifier: BSD-3-Clause
"""zstd frames of a segment's payload."""

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.errors import FormatError
from wbcache_core.format.frames import lengths_of, pack, unpack
from wbcache_core.format.segment import FRAME_COUNT, FRAME_PAGES, MAX_ENTRIES
from wbcache_core.units import MIB, PAGE_BYTES

FRAME_BYTES = FRAME_PAGES * PAGE_BYTES


def make_pages(count, random_ones=0):
    """Pages that compress well, the first ones excepted."""
    rng = random.Random(count)
    return [
        memoryview(rng.randbytes(PAGE_BYTES) if page < random_ones else bytes([page % 256]) * PAGE_BYTES)
        for page in range(count)
    ]


def packed(count, random_ones=0):
    return pack(zstandard.ZstdCompressor(level=1), make_pages(count, random_ones))


@pytest.mark.parametrize("random_ones", [0, 1, 16, 20, 1000])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 33, MAX_ENTRIES])
def test_round_trip(count, random_ones):
    frames = packed(count, random_ones)
    assert len(frames) == -(-count // FRAME_PAGES)
    plain = b"".join(bytes(unpack(frame, number, count)) for number, frame in enumerate(frames))
    assert plain == b"".join(make_pages(count, random_ones))


def test_pages_that_compress_take_less():
    assert all(len(frame) < FRAME_BYTES // 10 for frame in packed(MAX_ENTRIES))


def test_a_frame_that_does_not_shrink_is_stored():
    frames = packed(40, random_ones=20)
    assert frames[0] == b"".join(make_pages(40, 20)[:16])
    assert [len(frame) < FRAME_BYTES for frame in frames] == [False, True, True]


def test_lengths_fill_the_table():
    assert lengths_of([b"123", b"4"]) == (3, 1, *[0] * (FRAME_COUNT - 2))
    assert len(lengths_of(packed(MAX_ENTRIES))) == FRAME_COUNT


def test_the_last_frame_has_the_rest_of_the_pages():
    frame = packed(18)[1]
    assert len(unpack(frame, 1, 18)) == 2 * PAGE_BYTES
    with pytest.raises(FormatError, match="wrong size"):
        unpack(frame, 1, 19)
    with pytest.raises(FormatError, match="wrong size"):
        unpack(frame, 0, 18)


@pytest.mark.parametrize("claimed_bytes", [0, 1, FRAME_BYTES - 1, FRAME_BYTES + 1, 1000 * MIB])
def test_a_frame_that_claims_another_size_costs_no_memory(claimed_bytes):
    frame = zstandard.ZstdCompressor().compress(bytes(min(claimed_bytes, 100 * MIB)))
    with pytest.raises(FormatError):
        unpack(frame, 0, FRAME_PAGES)


def test_a_frame_without_its_size_is_refused():
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(FRAME_BYTES))
    with pytest.raises(FormatError):
        unpack(frame, 0, FRAME_PAGES)


@given(cut=st.integers(0, 60), position=st.integers(0, 60), value=st.integers(0, 255))
def test_a_changed_frame_is_refused_or_gives_as_many_bytes(cut, position, value):
    frame = bytearray(packed(FRAME_PAGES)[0])
    frame[min(position, len(frame) - 1)] = value
    check_any(bytes(frame[: len(frame) - cut]))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_give_as_many_bytes(content, as_zstd):
    check_any(b"\x28\xb5\x2f\xfd" + content if as_zstd else content)


def check_any(frame):
    try:
        plain = unpack(frame, 0, FRAME_PAGES)
    except FormatError:
        return
    assert len(plain) == FRAME_BYTES

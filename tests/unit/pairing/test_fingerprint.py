# SPDX-License-Identifier: BSD-3-Clause
"""Samples of the origin that tell whether somebody else used it."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.support.simulated_disk import MemoryDisk, SimulatedDisk
from wbcache_core.errors import DeviceError
from wbcache_core.format.superblock import SAMPLE_COUNT
from wbcache_core.pairing.fingerprint import differing_blocks, sample_page, sampled_blocks, take, updated
from wbcache_core.units import GIB, MIB, PAGE_BYTES, pages_of

SIZE = 2 * MIB + 3 * 512


@pytest.fixture
def origin():
    return MemoryDisk(bytearray(random.Random(1).randbytes(SIZE)))


@given(st.integers(1, 2**63 // 512).map(lambda sectors: sectors * 512))
def test_samples_are_in_the_volume_and_depend_on_its_size_alone(size):
    blocks = sampled_blocks(size)
    assert len(blocks) == SAMPLE_COUNT
    assert all(0 <= block < pages_of(size) for block in blocks)
    assert sampled_blocks(size) == blocks


def test_samples_are_where_file_systems_begin_and_end():
    blocks = sampled_blocks(100 * GIB)
    for offset in (0, 1024, 4096, 64 * 1024, MIB, MIB + 1024, MIB + 64 * 1024, 100 * GIB - 512):
        assert offset // PAGE_BYTES in blocks
    assert len(set(blocks)) == SAMPLE_COUNT
    gaps = [after - before for before, after in pairwise(sorted(blocks))]
    assert max(gaps) * PAGE_BYTES < 100 * GIB / 20


def test_a_small_origin_is_sampled_all_over():
    assert set(sampled_blocks(512)) == {0}
    assert set(sampled_blocks(8 * PAGE_BYTES)) == set(range(8))


def test_an_unchanged_origin_has_no_differing_blocks(origin):
    assert differing_blocks(origin, take(origin), lambda block: False) == []


def test_each_sampled_block_that_changes_is_told(origin):
    samples = take(origin)
    for block in set(sampled_blocks(SIZE)):
        at = min((block + 1) * PAGE_BYTES, SIZE) - 1
        origin.content[at] ^= 1
        found = differing_blocks(origin, samples, lambda block: False)
        assert set(found) == {block}
        assert differing_blocks(origin, samples, {block}.__contains__) == []
        origin.content[at] ^= 1


def test_the_last_page_is_padded_with_zeros(origin):
    last = pages_of(SIZE) - 1
    page = bytes(origin.content[last * PAGE_BYTES :]).ljust(PAGE_BYTES, b"\0")
    assert sample_page(origin, last) == xxh3_64_intdigest(page)


def test_an_update_gives_the_samples_that_a_new_look_would_give(origin):
    samples = take(origin)
    changed = {0: b"a" * PAGE_BYTES, 8: b"b" * PAGE_BYTES, 77: b"c" * PAGE_BYTES}
    for block, page in changed.items():
        origin.write([memoryview(page)], block * PAGE_BYTES)
    sums = {block: xxh3_64_intdigest(page) for block, page in changed.items()}
    assert updated(SIZE, samples, sums.get) == take(origin) != samples
    assert updated(SIZE, samples, lambda block: None) == samples


def test_an_origin_that_cannot_be_read_is_an_error():
    origin = SimulatedDisk(bytes(MIB))
    origin.faults.failing.add("read")
    with pytest.raises(DeviceError):
        take(origin)

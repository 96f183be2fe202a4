# SPDX-License-Identifier: BSD-3-Clause
"""The map from block to newest LSN, against a dict."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcache_core.memory.block_map import (
    HOLE_FLAG,
    LSN_MASK,
    NO_REGION,
    REGION_BLOCKS,
    SPARSE_BLOCKS,
    ZERO_FLAG,
    LocationMap,
    entry_lsn,
)

BLOCK_COUNT = 5 * REGION_BLOCKS
FAR = 2**40
GIB_BLOCKS = 2**18

BLOCKS = st.integers(0, BLOCK_COUNT - 1) | st.integers(0, 4).map(lambda region: region * REGION_BLOCKS)
LENGTHS = (1, 2, 10, 100, SPARSE_BLOCKS, SPARSE_BLOCKS + 1, REGION_BLOCKS - 1, REGION_BLOCKS)
COUNTS = st.sampled_from([*LENGTHS, REGION_BLOCKS + 1, 3 * REGION_BLOCKS])
STEPS = st.lists(
    st.tuples(st.sampled_from(["page", "run", "zero", "trim", "sweep"]), BLOCKS, COUNTS, st.integers(0, 3)), max_size=15
)


@given(STEPS, st.sampled_from([0, 2**53 - 100]))
def test_it_is_a_dict_of_blocks(steps, lsn):
    locations, model, oldest = LocationMap(), {}, 0
    for kind, block, count, part in steps:
        count = min(count, BLOCK_COUNT - block)
        if kind == "page":
            lsn += 1
            locations.set_page(block, lsn)
            model[block] = lsn
        elif kind == "run":
            locations.set_run(block, count, lsn + 1)
            model.update((block + index, lsn + 1 + index) for index in range(count))
            lsn += count
        elif kind == "sweep":
            oldest = max(oldest, lsn * part // 3)
            sweep_all(locations, part + 1, oldest)
        else:
            lsn += 1
            entry = lsn | ZERO_FLAG | (HOLE_FLAG if kind == "trim" else 0)
            locations.set_all(block, count, entry)
            model.update((block + index, entry) for index in range(count))
        locations.check()
    compare(locations, model, oldest)


def sweep_all(locations, limit, oldest):
    region = 0
    while region is not None:
        region = locations.sweep(region, limit, oldest)


def compare(locations, model, oldest):
    """An entry below oldest may be forgotten: both say that the block is on the origin."""
    expected = [model.get(block, 0) for block in range(BLOCK_COUNT)]
    found = list(locations.entries(0, BLOCK_COUNT))
    assert len(found) == BLOCK_COUNT
    for block, entry in enumerate(found):
        assert entry == expected[block] or (entry == 0 and entry_lsn(expected[block]) < oldest)
        assert locations.get(block) == entry
    for block in (0, 1, REGION_BLOCKS - 1, REGION_BLOCKS, 2 * REGION_BLOCKS + 5):
        for count in (0, 1, 7, REGION_BLOCKS, 2 * REGION_BLOCKS + 1):
            assert list(locations.entries(block, count)) == found[block : block + count]


def test_what_was_never_written_is_zero():
    locations = LocationMap()
    assert locations.get(FAR) == 0
    assert list(locations.entries(FAR - 3, 1000)) == [0] * 1000
    assert not locations.regions, "looking costs no memory"


def test_flags_are_apart_from_the_lsn():
    assert entry_lsn(ZERO_FLAG | HOLE_FLAG | 77) == 77 == entry_lsn(77)
    assert ZERO_FLAG & LSN_MASK == HOLE_FLAG & LSN_MASK == 0


def test_a_copy_of_entries_stays_as_it_was():
    locations = LocationMap()
    locations.set_run(10, 3, 1)
    entries = locations.entries(10, 3)
    locations.set_page(11, 9)
    assert list(entries) == [1, 2, 3]


def test_a_range_over_whole_regions_takes_no_leaves():
    locations = LocationMap()
    locations.set_all(FAR, 1000 * REGION_BLOCKS, ZERO_FLAG | 5)
    assert not locations.regions
    locations.set_page(FAR + 700, 6)
    assert list(locations.entries(FAR + 699, 3)) == [ZERO_FLAG | 5, 6, ZERO_FLAG | 5]
    assert list(locations.entries(FAR + REGION_BLOCKS, 1)) == [ZERO_FLAG | 5]


def test_a_trim_of_many_tebibytes_takes_hardly_any_memory():
    tracemalloc.start()
    try:
        locations = LocationMap()
        # As a client's trims are logged: a GiB an entry, many of them behind one LSN.
        for number in range(12 * 1024):
            locations.set_all(number * GIB_BLOCKS, GIB_BLOCKS, ZERO_FLAG | HOLE_FLAG | 1 + number // 246)
        locations.set_page(5 * GIB_BLOCKS + 3, 100)
        locations.check()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert list(locations.entries(5 * GIB_BLOCKS + 2, 3)) == [ZERO_FLAG | HOLE_FLAG | 1, 100, ZERO_FLAG | HOLE_FLAG | 1]
    assert locations.get(12 * 1024 * GIB_BLOCKS - 1) == ZERO_FLAG | HOLE_FLAG | 1 + (12 * 1024 - 1) // 246
    assert locations.get(12 * 1024 * GIB_BLOCKS) == 0
    sweep_all(locations, 32, 40)
    assert locations.get(0) == 0 != locations.get(12 * 1024 * GIB_BLOCKS - 1)
    assert locations.sweeps
    sweep_all(locations, 32, 200)
    assert locations.piece(0) == (NO_REGION, 0)


def test_pages_all_over_a_trimmed_volume_take_eight_bytes_each():
    locations = LocationMap()
    locations.set_all(0, 1000 * REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | 1)
    for lsn, region in enumerate(range(1000), 2):
        locations.set_page(region * REGION_BLOCKS + 7, lsn)
    locations.check()
    assert sum(len(leaf) for leaf in locations.regions.values()) == 1000
    assert list(locations.entries(6, 3)) == [ZERO_FLAG | HOLE_FLAG | 1, 2, ZERO_FLAG | HOLE_FLAG | 1]


@given(STEPS)
def test_pieces_and_runs_agree_with_the_entries(steps):
    locations, lsn = LocationMap(), 0
    for kind, block, count, part in steps:
        count = min(count, BLOCK_COUNT - block)
        lsn += 1
        if kind == "sweep":
            sweep_all(locations, part + 1, lsn * part // 3)
        elif kind in ("page", "run"):
            locations.set_run(block, count, lsn)
            lsn += count
        else:
            locations.set_all(block, count, lsn | ZERO_FLAG | (HOLE_FLAG if kind == "trim" else 0))
    region = 0
    while region < BLOCK_COUNT // REGION_BLOCKS:
        stop, leaf = locations.piece(region)
        assert stop > region
        if isinstance(leaf, int):
            count = min(stop * REGION_BLOCKS, BLOCK_COUNT) - region * REGION_BLOCKS
            assert list(locations.entries(region * REGION_BLOCKS, count)) == [leaf] * count
        region = stop
    for oldest in (1, lsn // 2 + 1):
        check_runs(locations, oldest)


def check_runs(locations, oldest):
    block = 0
    while block < BLOCK_COUNT:
        stop, entry = locations.run(block, BLOCK_COUNT, oldest)
        assert block < stop <= BLOCK_COUNT
        entries = locations.entries(block, stop - block)
        assert entries[0] == entry
        assert len({entry_lsn(one) >= oldest and (one >> 62, 1) for one in entries}) == 1
        block = stop


@pytest.mark.parametrize("count", [1, 2, 4, 16])
@pytest.mark.parametrize("kind", ["run", "zero", "trim"])
def test_small_requests_all_over_a_large_volume_take_eight_bytes_a_block(kind, count):
    locations, lsn = LocationMap(), 1
    for block in range(5, 1000 * REGION_BLOCKS, REGION_BLOCKS // 2 + 1):
        if kind == "run":
            locations.set_run(block, count, lsn)
            lsn += count
        else:
            locations.set_all(block, count, lsn | ZERO_FLAG | (HOLE_FLAG if kind == "trim" else 0))
            lsn += 1
    locations.check()
    sizes = [len(leaf) * leaf.itemsize for leaf in locations.regions.values()]
    assert len(sizes) == 1000
    assert 1990 * count * 8 <= sum(sizes) <= 2000 * count * 8


def test_lsns_that_a_sparse_leaf_has_no_room_for():
    locations = LocationMap()
    for block, lsn in ((3, 2**53 - 2), (13, 2**53 - 1), (23, 2**53 + 7), (600, 2**53 - 3), (1100, 2**60)):
        locations.set_run(block, 2, lsn)
        locations.check()
        assert list(locations.entries(block - 1, 4)) == [0, lsn, lsn + 1, 0]
    locations.set_all(1600, 2, ZERO_FLAG | 2**53)
    locations.set_pages({2100: 2**53, 2101: 2**53 - 1})
    locations.check()
    assert list(locations.entries(1600, 2)) == [ZERO_FLAG | 2**53] * 2
    assert list(locations.entries(2100, 2)) == [2**53, 2**53 - 1]


def test_leaves_do_not_share_their_entries():
    locations = LocationMap()
    locations.set_page(0, 1)
    locations.set_page(REGION_BLOCKS, 2)
    locations.set_page(FAR, 3)
    assert list(locations.entries(0, 2)) == [1, 0]
    assert list(locations.entries(REGION_BLOCKS, 2)) == [2, 0]


@pytest.mark.parametrize(
    ("oldest", "left"), [(0, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (6, [1, 2, 3]), (8, [2, 3]), (21, [3]), (23, [])]
)
def test_a_sweep_drops_the_regions_that_have_only_old_entries(oldest, left):
    locations = LocationMap()
    locations.set_page(7, 5)
    locations.set_all(REGION_BLOCKS + 1, 10, ZERO_FLAG | HOLE_FLAG | 7)
    locations.set_page(2 * REGION_BLOCKS, 20)
    locations.set_all(2 * REGION_BLOCKS + 9, 1, ZERO_FLAG | 3)
    locations.set_all(3 * REGION_BLOCKS, REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | 22)
    sweep_all(locations, 2, oldest)
    assert [region for region in range(4) if any(locations.entries(region * REGION_BLOCKS, REGION_BLOCKS))] == left
    assert bool(locations.sweeps) == (len(left) < 4), "who relies on an entry sees that some were dropped"


def test_a_sweep_goes_on_where_it_stopped():
    locations = LocationMap()
    for region in range(10):
        locations.set_page(region * 7 * REGION_BLOCKS, 1)
    assert locations.sweep(0, 3, 5) == 21
    assert len(locations.regions) == 7
    assert locations.sweep(21, 7, 5) is None
    assert not locations.regions
    assert locations.sweep(0, 1, 5) is None


@pytest.mark.parametrize("entry", [HOLE_FLAG | 5, HOLE_FLAG])
def test_check_finds_a_hole_that_is_not_zero(entry):
    locations = LocationMap()
    locations.set_all(3, 1, entry)
    with pytest.raises(AssertionError):
        locations.check()

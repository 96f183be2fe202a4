# SPDX-License-Identifier: BSD-3-Clause
"""The map from block to newest LSN, against a dict."""

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.injected_errors import error_at
from tests.support.invariants import check_map
from wbcache_core.memory.block_map import (
    HOLE_FLAG,
    LSN_MASK,
    MOST_INTERVALS,
    NO_REGION,
    REGION_BLOCKS,
    SHORT_RANGE,
    SPARSE_BLOCKS,
    ZERO_FLAG,
    LocationMap,
    entry_lsn,
)

BLOCK_COUNT = 5 * REGION_BLOCKS
FAR = 2**40
GIB_BLOCKS = 2**18

BLOCKS = st.integers(0, BLOCK_COUNT - 1) | st.integers(0, 4).map(lambda region: region * REGION_BLOCKS)
# Around where a leaf becomes one of another kind, and where the next region begins.
EDGES = (SHORT_RANGE, SPARSE_BLOCKS, 2 * MOST_INTERVALS, REGION_BLOCKS)
LENGTHS = (1, 2, 10, 100, *(edge + off for edge in EDGES for off in (-1, 0, 1)))
COUNTS = st.sampled_from([*LENGTHS, 3 * REGION_BLOCKS])
KINDS = ["page", "run", "zero", "trim", "sweep", "forget", "comb"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), BLOCKS, COUNTS, st.integers(0, 3)), max_size=15)
COMB_STEPS = (2, 3, 5, 4)


@given(STEPS, st.sampled_from([0, 2**53 - 100]))
def test_it_is_a_dict_of_blocks(steps, lsn):
    locations, model, oldest, clean = LocationMap(), {}, 0, 0
    for kind, block, count, part in steps:
        count = min(count, BLOCK_COUNT - block)
        if kind == "forget":
            # As of a block that is given up.
            locations.set_page(block, 0)
            model[block] = 0
        elif kind == "comb":
            # Many short ones: of zeros, with parts that stand out.
            for at in range(block, block + count, COMB_STEPS[part]):
                lsn += 1
                entry = lsn if part == 1 else lsn | ZERO_FLAG
                locations.set_page(at, lsn) if part == 1 else locations.set_all(at, 1, entry)
                model[at] = entry
        elif kind == "page":
            lsn += 1
            locations.set_page(block, lsn)
            model[block] = lsn
        elif kind == "run":
            locations.set_run(block, count, lsn + 1)
            model.update((block + index, lsn + 1 + index) for index in range(count))
            lsn += count
        elif kind == "sweep":
            oldest, clean = max(oldest, lsn * part // 4), max(clean, lsn * part // 3)
            sweep_all(locations, part + 1, oldest, clean)
            assert locations.dropped_below == clean
        else:
            lsn += 1
            entry = lsn | ZERO_FLAG | (HOLE_FLAG if kind == "trim" else 0)
            locations.set_all(block, count, entry)
            model.update((block + index, entry) for index in range(count))
        check_map(locations)
    compare(locations, model, oldest, clean)


def sweep_all(locations, limit, oldest, clean=None):
    region = 0
    while region is not None:
        region = locations.sweep(region, limit, oldest, oldest if clean is None else clean)


def may_be(entry, written, oldest, clean):
    """Pages below oldest and zeros below clean may be forgotten, or be older ones: the block is on the origin."""
    if entry == written:
        return True
    if written & ZERO_FLAG and entry_lsn(written) < clean:
        return entry == 0 or (entry & ZERO_FLAG and entry_lsn(entry) < clean)
    return entry_lsn(entry) < oldest and entry_lsn(written) < oldest


def compare(locations, model, oldest, clean):
    expected = [model.get(block, 0) for block in range(BLOCK_COUNT)]
    found = list(locations.entries(0, BLOCK_COUNT))
    assert len(found) == BLOCK_COUNT
    for block, entry in enumerate(found):
        assert may_be(entry, expected[block], oldest, clean)
        assert locations.get(block) == entry
    for block in (0, 1, REGION_BLOCKS - 1, REGION_BLOCKS, 2 * REGION_BLOCKS + 5):
        for count in (0, 1, 7, REGION_BLOCKS, 2 * REGION_BLOCKS + 1):
            assert list(locations.entries(block, count)) == found[block : block + count]


def test_what_was_never_written_is_zero():
    locations = LocationMap()
    assert locations.get(FAR) == 0
    assert list(locations.entries(FAR - 3, 1000)) == [0] * 1000
    assert not len(locations), "looking costs no memory"


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
    assert (len(locations), locations.byte_count) == (1, 0)
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
        check_map(locations)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert list(locations.entries(5 * GIB_BLOCKS + 2, 3)) == [ZERO_FLAG | HOLE_FLAG | 1, 100, ZERO_FLAG | HOLE_FLAG | 1]
    assert locations.get(12 * 1024 * GIB_BLOCKS - 1) == ZERO_FLAG | HOLE_FLAG | 1 + (12 * 1024 - 1) // 246
    assert locations.get(12 * 1024 * GIB_BLOCKS) == 0
    sweep_all(locations, 32, 40)
    assert locations.get(0) == 0 != locations.get(12 * 1024 * GIB_BLOCKS - 1)
    sweep_all(locations, 32, 200)
    assert locations.piece(0) == (NO_REGION, 0)


def test_pages_all_over_a_trimmed_volume_take_eight_bytes_each():
    locations = LocationMap()
    locations.set_all(0, 1000 * REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | 1)
    for lsn, region in enumerate(range(1000), 2):
        locations.set_page(region * REGION_BLOCKS + 7, lsn)
    check_map(locations)
    assert locations.byte_count == 8 * 1000
    assert list(locations.entries(6, 3)) == [ZERO_FLAG | HOLE_FLAG | 1, 2, ZERO_FLAG | HOLE_FLAG | 1]


@given(STEPS)
def test_pieces_and_runs_agree_with_the_entries(steps):
    locations, lsn = LocationMap(), 0
    for kind, block, count, part in steps:
        count = min(count, BLOCK_COUNT - block)
        lsn += 1
        if kind == "sweep":
            sweep_all(locations, part + 1, lsn * part // 4, lsn * part // 3)
        elif kind == "comb":
            for at in range(block, block + count, COMB_STEPS[part]):
                locations.set_all(at, 1, lsn | ZERO_FLAG)
        elif kind in ("page", "run", "forget"):
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
def test_small_requests_all_over_a_large_volume_take_eight_bytes_a_block_or_less(kind, count):
    locations, lsn = LocationMap(), 1
    for block in range(5, 1000 * REGION_BLOCKS, REGION_BLOCKS // 2 + 1):
        if kind == "run":
            locations.set_run(block, count, lsn)
            lsn += count
        else:
            locations.set_all(block, count, lsn | ZERO_FLAG | (HOLE_FLAG if kind == "trim" else 0))
            lsn += 1
    check_map(locations)
    assert len(locations) == 1000
    each = 8 * count if kind == "run" or count <= SHORT_RANGE else 16
    # An interval that reaches into the next region is two.
    assert 1990 * each <= locations.byte_count <= 2000 * each + (each == 16) * 50 * each


def test_lsns_that_a_sparse_leaf_has_no_room_for():
    locations = LocationMap()
    for block, lsn in ((3, 2**53 - 2), (13, 2**53 - 1), (23, 2**53 + 7), (600, 2**53 - 3), (1100, 2**60)):
        locations.set_run(block, 2, lsn)
        check_map(locations)
        assert list(locations.entries(block - 1, 4)) == [0, lsn, lsn + 1, 0]
    locations.set_all(1600, 2, ZERO_FLAG | 2**53)
    locations.set_pages({2100: 2**53, 2101: 2**53 - 1})
    check_map(locations)
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
    assert locations.dropped_below == oldest, "who relies on an entry sees that it may have been dropped"


def test_a_sweep_goes_on_where_it_stopped():
    locations = LocationMap()
    for region in range(10):
        locations.set_page(region * 7 * REGION_BLOCKS, 1)
    assert locations.sweep(0, 3, 5, 5) == 21
    assert len(locations) == 7
    assert locations.sweep(21, 7, 5, 5) is None
    assert not len(locations)
    assert locations.sweep(0, 1, 5, 5) is None


def test_a_sweep_looks_at_a_limited_number_of_spans_at_once():
    locations = LocationMap()
    for number in range(10):
        locations.set_all(2 * number * REGION_BLOCKS, REGION_BLOCKS, ZERO_FLAG | 1)
    assert locations.sweep(0, 3, 5, 5) == 6
    assert len(locations) == 7
    sweep_all(locations, 3, 5)
    assert not len(locations)


def test_zeros_go_when_the_origin_has_them_and_pages_when_the_log_has_them_no_more():
    locations = LocationMap()
    locations.set_all(0, 100, ZERO_FLAG | HOLE_FLAG | 5)
    locations.set_run(10, 20, 6)
    locations.set_all(REGION_BLOCKS, 2 * REGION_BLOCKS, ZERO_FLAG | 30)
    locations.set_all(3 * REGION_BLOCKS + 1, 3, ZERO_FLAG | 31)
    sweep_all(locations, 1, 3, 31)
    found = locations.entries(0, 4 * REGION_BLOCKS)
    assert {block: entry for block, entry in enumerate(found) if entry} == {
        **{10 + index: 6 + index for index in range(20)},
        **{3 * REGION_BLOCKS + 1 + index: ZERO_FLAG | 31 for index in range(3)},
    }
    # Of a run of pages the first half.
    sweep_all(locations, 1, 16, 31)
    assert list(locations.entries(10, 20)) == [0] * 10 + list(range(16, 26))


def test_a_block_that_is_given_up_stays_on_the_origin_below_zeros_that_stay():
    for size in (1, SPARSE_BLOCKS + 1):
        locations = LocationMap()
        locations.set_all(0, REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | 20)
        locations.set_run(0, size, 30)
        for block in range(size):
            locations.set_page(block, 0)
        sweep_all(locations, 1, 10, 15)
        assert set(locations.entries(0, size)) == {0}


@pytest.mark.parametrize("pages", [3, SPARSE_BLOCKS + 1])
def test_pages_that_are_long_gone_do_not_pile_up_beside_new_ones(pages):
    locations, lsn = LocationMap(), 1
    for _ in range(20):
        for _ in range(pages):
            locations.set_page(lsn * 7 % REGION_BLOCKS, lsn)
            lsn += 1
        locations.set_page(0, lsn)
        sweep_all(locations, 1, lsn, lsn)
        check_map(locations)
        assert locations.byte_count == 8



def test_memory_for_each_request_has_a_limit_whatever_it_trims():
    """Of the kinds of trims that took a dense leaf each, and of those that fall apart the most."""
    for lengths in ((1,), (SHORT_RANGE + 1,), (SPARSE_BLOCKS + 1,), (REGION_BLOCKS - 1,), (3, 7, 150, 300, 511, 700)):
        for spread in (1, 40, 700):
            locations, count = LocationMap(), 3000
            for number in range(count):
                block = number * 7919 * 32 % (spread * REGION_BLOCKS)
                locations.set_all(block + number % 5, lengths[number % len(lengths)], ZERO_FLAG | 1 + number)
            check_map(locations)
            assert locations.byte_count <= min(64 * count, 4096 * (spread + 2)), (lengths, spread)


MAP = tuple(
    f"memory/{name}.py" for name in ("block_map", "interval_leaf", "sparse_leaf", "ordered_table", "map_entry")
)
SIX = 6 * REGION_BLOCKS
CHANGES = {
    "all of a leaf and more": lambda locations: locations.set_all(REGION_BLOCKS - 5, SIX // 5, ZERO_FLAG | 900),
    "inside a span": lambda locations: locations.set_all(4 * REGION_BLOCKS + 9, REGION_BLOCKS, ZERO_FLAG | 900),
    "the middle of a span": lambda locations: locations.set_all(4 * REGION_BLOCKS, REGION_BLOCKS, ZERO_FLAG | 900),
    "the start of a span": lambda locations: locations.set_all(3 * REGION_BLOCKS, REGION_BLOCKS, ZERO_FLAG | 900),
    "behind a span": lambda locations: locations.set_all(5 * REGION_BLOCKS, 2 * REGION_BLOCKS, ZERO_FLAG | 900),
    "spans and leaves": lambda locations: locations.set_all(7, SIX, ZERO_FLAG | 900),
    "a sparse leaf that gets full": lambda locations: locations.set_all(9, 100, ZERO_FLAG | 900),
    "a page among intervals": lambda locations: locations.set_page(2 * REGION_BLOCKS + 100, 900),
    "a run": lambda locations: locations.set_run(REGION_BLOCKS - 200, 400, 900),
}


def filled_map():
    """Each kind of leaf, and spans."""
    locations = LocationMap()
    locations.set_all(3 * REGION_BLOCKS, 3 * REGION_BLOCKS, ZERO_FLAG | HOLE_FLAG | 10)
    for block in range(0, 250, 2):
        locations.set_page(block, 20 + block)
    locations.set_run(REGION_BLOCKS + 3, 200, 300)
    locations.set_all(2 * REGION_BLOCKS + 50, 300, ZERO_FLAG | 600)
    locations.set_run(4 * REGION_BLOCKS + 5, 3, 700)
    return locations


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_runs_out_of_memory_leaves_everything_else_as_it_was(change):
    old = filled_map().entries(0, 7 * REGION_BLOCKS)
    whole = filled_map()
    CHANGES[change](whole)
    new = whole.entries(0, 7 * REGION_BLOCKS)
    for countdown in range(1000):
        locations = filled_map()
        with contextlib.suppress(MemoryError), error_at(countdown, MAP) as injection:
            CHANGES[change](locations)
        found = locations.entries(0, 7 * REGION_BLOCKS)
        assert all(entry in pair for entry, *pair in zip(found, old, new, strict=True)), injection.struck
        for block in range(0, len(found), 13):
            assert locations.get(block) == found[block], (block, injection.struck)
        block = 0
        while block < len(found):
            stop, _ = locations.run(block, len(found), 1)
            assert len({one >> 62 or one > 0 for one in found[block:stop]}) == 1, (block, injection.struck)
            block = stop
        sweep_all(locations, 3, 10**6)
        assert not any(locations.entries(0, len(found))), injection.struck
        if injection.struck is None:
            break
    assert countdown > 3


def test_tables_become_small_again():
    locations = LocationMap()
    locations.set_page(0, 10**6)
    sizes = []
    for _ in range(2):
        tracemalloc.start()
        try:
            for number in range(3000):
                locations.set_all(number * 2 * REGION_BLOCKS + 256, 512, ZERO_FLAG | 1 + number)
                locations.set_all((number * 3 + 10**6) * REGION_BLOCKS, REGION_BLOCKS, ZERO_FLAG | 1 + number)
            for number in range(1100):
                locations.set_run(FAR + number * REGION_BLOCKS, SPARSE_BLOCKS + 1, 1)
            peak, _ = tracemalloc.get_traced_memory()
            sweep_all(locations, 100, 10**5, 10**8)
            sweep_all(locations, 100, 10**8)
            sizes.append(tracemalloc.get_traced_memory()[0] / peak)
        finally:
            tracemalloc.stop()
    assert max(sizes) < 0.01, sizes


@pytest.mark.parametrize("entry", [HOLE_FLAG | 5, HOLE_FLAG])
def test_check_finds_a_hole_that_is_not_zero(entry):
    locations = LocationMap()
    locations.set_all(3, 1, entry)
    with pytest.raises(AssertionError):
        check_map(locations)

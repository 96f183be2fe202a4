# SPDX-License-Identifier: BSD-3-Clause
"""What one batch writes to the origin, against replaying its entries one by one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from wbcache_core.flow.batch import Clear, DestageBatch
from wbcache_core.format.segment import KIND_SHIFT, PAGE, RAW, TRIM, ZERO, Descriptor
from wbcache_core.units import PAGE_BYTES

BLOCKS = 24
START_LSN = 1000

ENTRIES = st.tuples(st.sampled_from([PAGE, PAGE, PAGE, TRIM, ZERO]), st.integers(0, BLOCKS - 1), st.integers(1, 10))
SEGMENTS = st.lists(st.lists(ENTRIES, min_size=1, max_size=12), min_size=1, max_size=6)


def page_of(lsn):
    return lsn.to_bytes(8, "little") * (PAGE_BYTES // 8)


def describe(first_lsn, entries):
    """The descriptor of (kind, block, count) entries."""
    entry_words, arguments, lsn = [], [], first_lsn
    for kind, block, count in entries:
        entry_words.append(kind << KIND_SHIFT | block)
        if kind == PAGE:
            lsn += 1
            arguments.append(xxh3_64_intdigest(page_of(lsn)))
        else:
            arguments.append(count)
    words = tuple(entry_words), tuple(arguments)
    return Descriptor(RAW, lsn - first_lsn, bytes(16), first_lsn, 0, 1, 1, 0, 0, (), *words)


def build(segments, start_lsn=START_LSN):
    """A batch of segments, each a list of (kind, block, count)."""
    descriptors = []
    for entries in segments:
        descriptors.append(describe(descriptors[-1].end_lsn if descriptors else start_lsn, entries))
    image = b"".join(page_of(lsn) for lsn in range(start_lsn, descriptors[-1].end_lsn))
    return DestageBatch(start_lsn, memoryview(bytearray(image)), descriptors)


def replay(segments, content, start_lsn=START_LSN):
    """Apply all entries in their order; returns {block: content of it} of what was touched."""
    lsn, touched = start_lsn, {}
    for entries in segments:
        for kind, block, count in entries:
            if kind == PAGE:
                lsn += 1
                touched[block] = page_of(lsn)
            else:
                touched.update(dict.fromkeys(range(block, block + count), bytes(PAGE_BYTES)))
        lsn += 1
    for block, page in touched.items():
        content[block * PAGE_BYTES : (block + 1) * PAGE_BYTES] = page
    return touched


def apply(batch, content):
    """What the origin writer does: clears, then runs."""
    size = len(content)
    for clear in batch.clears:
        start, end = clear.block * PAGE_BYTES, (clear.block + clear.block_count) * PAGE_BYTES
        content[start:end] = bytes(max(min(end, size) - start, 0))
    for run in batch.runs(size):
        data = b"".join(run.views)
        assert run.offset + len(data) <= size
        content[run.offset : run.offset + len(data)] = data


@given(SEGMENTS)
def test_a_batch_leaves_what_a_replay_leaves(segments):
    batch = build(segments)
    expected = bytearray(b"\xee" * PAGE_BYTES * 2 * BLOCKS)
    found = bytearray(expected)
    touched = replay(segments, expected)
    apply(batch, found)
    assert found == expected
    assert batch.bad_pages() == []
    assert batch.end_lsn == START_LSN + sum(1 + sum(kind == PAGE for kind, _, _ in entries) for entries in segments)
    checksum = batch.new_checksum()
    for block in range(2 * BLOCKS):
        assert checksum(block) == (xxh3_64_intdigest(touched[block]) if block in touched else None)


@given(SEGMENTS)
def test_runs_are_sorted_merged_and_apart(segments):
    batch = build(segments)
    runs = list(batch.runs(2 * BLOCKS * PAGE_BYTES))
    assert sum(len(run.views) for run in runs) == len(batch)
    for before, after in pairwise(runs):
        assert before.offset + sum(map(len, before.views)) < after.offset


def test_each_block_is_written_once_as_it_was_last():
    batch = build([[(PAGE, 5, 1), (PAGE, 6, 1), (PAGE, 5, 1)], [(PAGE, 5, 1)]])
    assert len(batch) == 2
    [run] = batch.runs(100 * PAGE_BYTES)
    assert run.offset == 5 * PAGE_BYTES
    assert list(run.views) == [page_of(START_LSN + 5), page_of(START_LSN + 2)]


def test_a_run_is_at_most_a_mebibyte():
    batch = build([[(PAGE, block, 1) for block in range(240)]] * 2 + [[(PAGE, 240 + block, 1) for block in range(240)]])
    assert [len(run.views) for run in batch.runs(10**9)] == [256, 224]


@pytest.mark.parametrize("size", [3 * PAGE_BYTES + 512, 3 * PAGE_BYTES + 3584])
def test_the_last_page_is_cut_at_the_end_of_the_origin(size):
    batch = build([[(PAGE, 2, 1), (PAGE, 3, 1)]])
    [run] = batch.runs(size)
    assert run.offset + sum(map(len, run.views)) == size


def test_a_page_written_before_a_clear_is_not_written_and_one_after_it_is():
    batch = build([[(PAGE, 1, 1), (PAGE, 2, 1)], [(TRIM, 0, 2)], [(PAGE, 0, 1), (ZERO, 7, 2)]])
    assert [run.offset // PAGE_BYTES for run in batch.runs(10**6)] == [0, 2]
    assert batch.clears == [Clear(0, 2, True), Clear(7, 2, False)]


def test_a_clear_of_a_whole_disk_takes_no_time():
    batch = build([[(PAGE, block, 1) for block in range(100)], [(TRIM, 10, 2**50)], [(ZERO, 0, 2**50)]])
    assert len(batch) == 0
    assert list(batch.runs(2**62)) == []


def test_bad_pages_are_those_that_would_be_written():
    batch = build([[(PAGE, 1, 1), (PAGE, 2, 1), (PAGE, 1, 1)], [(PAGE, 9, 1), (PAGE, 3, 1)], [(TRIM, 9, 1)]])
    for lsn in (1001, 1002, 1003, 1005, 1006):
        batch._image[(lsn - START_LSN) * PAGE_BYTES] ^= 1
    assert batch.bad_pages() == [(1002, 2), (1003, 1), (1006, 3)]
    batch.leave_out(2)
    assert batch.bad_pages() == [(1003, 1), (1006, 3)]
    assert [run.offset // PAGE_BYTES for run in batch.runs(10**6)] == [1, 3]
    assert batch.new_checksum()(2) is None


def test_the_last_descriptor_is_at_hand():
    batch = build([[(PAGE, 1, 1)], [(TRIM, 1, 1)]])
    assert (batch.start_lsn, batch.last.first_lsn, batch.end_lsn) == (1000, 1002, 1003)

# SPDX-License-Identifier: BSD-3-Clause
"""What must hold in the core's structures at every moment. Callers hold the locks that these are guarded by."""

from array import array

from wbcache_core.memory import sparse_leaf
from wbcache_core.memory.block_map import (
    _ENTRY_MASK,
    HOLE_FLAG,
    MOST_INTERVALS,
    REGION_BLOCKS,
    SPARSE_BLOCKS,
    ZERO_FLAG,
)
from wbcache_core.memory.interval_leaf import IntervalLeaf, intervals_of
from wbcache_core.memory.sparse_leaf import INDEX_SHIFT


def check_line(line):
    """The cursors of a NumberLine are in order."""
    assert 1 <= line.oldest <= line.destaged <= line.committed <= line.head
    assert line.reclaimed_place <= line.destaged_place <= line.write_place
    assert 0 <= line.free_pages <= line.data_pages
    assert line.head - line.committed <= line.volatile_pages <= line.ring_pages


def check_generations(generations):
    """Ends ascend, and each has its time."""
    assert len(generations._ends) == len(generations.times)
    assert all(map(int.__lt__, generations._ends, generations._ends[1:]))


def check_pins(pins):
    """What Pins hold back lies in the part of the log that is covered."""
    line, generations = pins._line, pins._covered.generations
    assert line.destaged <= pins.floor <= line.committed
    assert all(pins.floor <= end <= line.committed for end in pins._ends())
    check_generations(generations)
    oldest, newest = generations.oldest, generations.newest
    if oldest and newest:
        assert pins.floor <= oldest.end_lsn and newest.end_lsn == line.committed
    for tag in pins.tags:
        assert generations.numbered(tag.generation) == tag[1:]


def check_map(locations):
    """The leaves and spans of a LocationMap are well formed, and only blocks of zeros are holes."""
    _check_table(locations._leaves)
    _check_table(locations._spans)
    assert locations._dense.keys() <= locations._leaves.values.keys()
    for region, leaf in locations._leaves.values.items():
        if region in locations._dense:
            assert leaf is locations._dense[region] and type(leaf) is array and len(leaf) == REGION_BLOCKS
        entries = _entries_of(leaf, region in locations._dense)
        assert all(entry & ZERO_FLAG or not entry & HOLE_FLAG for entry in entries)
    end = 0
    for start in locations._spans.keys:
        stop, entry = locations._spans.values[start] >> 64, locations._spans.values[start] & _ENTRY_MASK
        assert end <= start < stop and entry & ZERO_FLAG
        end = stop


def _entries_of(leaf, is_dense):
    """The map's entries in a leaf, whose form is checked."""
    if is_dense:
        return leaf
    if type(leaf) is IntervalLeaf:
        _check_interval_leaf(leaf)
        return leaf[len(leaf) // 2 :]
    assert type(leaf) is array
    indices = [word >> INDEX_SHIFT for word in leaf]
    assert 0 < len(leaf) <= SPARSE_BLOCKS and indices == sorted(set(indices))
    return map(sparse_leaf.entry_of, leaf)


def _check_interval_leaf(leaf):
    """Intervals are in order and do not overlap."""
    assert not len(leaf) & 1 and 0 < len(leaf) <= 2 * MOST_INTERVALS
    end = 0
    for start, stop, _ in intervals_of(leaf):
        assert end <= start < stop <= REGION_BLOCKS
        end = stop


def _check_table(table):
    """Both halves of an OrderedTable have the same keys."""
    assert list(table.keys) == sorted(table.values)

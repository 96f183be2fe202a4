# SPDX-License-Identifier: BSD-3-Clause
"""The rule that the kill tests judge by: it must refuse each kind of wrong state, and no right one."""

import pytest

from tests.support.stamped_blocks import Write, blocks_of, check_after_crash, mark_flushed, sequence_in, stamped

BLOCK_SIZES = [4096] + [512] * 8 + [1000, 3096] + [2048, 2047]


def write(block, sequence, submitted_ns, done_ns, durable=False, zeroes=False):
    return Write(block, sequence, zeroes, submitted_ns, done_ns, durable)


def test_blocks_stay_within_a_page():
    blocks = blocks_of(8)
    assert [block.size for block in blocks] == BLOCK_SIZES * 2
    assert all(block.offset // 4096 == (block.offset + block.size - 1) // 4096 for block in blocks)


@pytest.mark.parametrize("place", [0, 8, 16, 255, 511])
def test_a_byte_of_another_write_is_seen(place):
    block = blocks_of(2)[3]
    data = bytearray(stamped(block, 7))
    assert sequence_in(block, data) == 7
    data[place] ^= 1
    with pytest.raises(AssertionError, match="not from one write"):
        sequence_in(block, data)


def test_a_block_in_the_wrong_place_is_seen():
    first, second = blocks_of(2)[3:5]
    with pytest.raises(AssertionError, match="header says block 3"):
        sequence_in(second, stamped(first, 7))


# Block 0: 11 (answered at 20), 12 (at 40), 13 (no answer). Block 1: 21 (answered at 30), trimmed by 22 (at 60).
WRITES = [
    write(0, 11, 10, 20),
    write(0, 12, 31, 40),
    write(0, 13, 70, None),
    write(1, 21, 21, 30),
    write(1, 22, 50, 60, zeroes=True),
]


@pytest.mark.parametrize("found", [[1, 2], [11, 2], [11, 21], [12, 21], [12, 0], [13, 0]])
def test_every_moment_is_accepted(found):
    check_after_crash([1, 2], WRITES, found)


@pytest.mark.parametrize("found", [[12, 2], [13, 21], [11, 0], [1, 21]])
def test_a_hole_in_the_order_is_refused(found):
    with pytest.raises(AssertionError, match="is lost"):
        check_after_crash([1, 2], WRITES, found)


@pytest.mark.parametrize("found", [[9, 21], [21, 21], [12, 1]])
def test_a_write_that_never_was_is_refused(found):
    with pytest.raises(AssertionError, match="which is none of"):
        check_after_crash([1, 2], WRITES, found)


def test_a_flushed_write_must_be_there():
    writes = [Write(**vars(one)) for one in WRITES]
    mark_flushed(writes, 35)
    check_after_crash([1, 2], writes, [11, 21])
    with pytest.raises(AssertionError, match="older than the durable"):
        check_after_crash([1, 2], writes, [11, 2])


def test_every_answered_write_must_be_there_if_answers_are_durable():
    check_after_crash([1, 2], WRITES, [12, 0], acknowledged_is_durable=True)
    with pytest.raises(AssertionError, match="was answered"):
        check_after_crash([1, 2], WRITES, [12, 21], acknowledged_is_durable=True)

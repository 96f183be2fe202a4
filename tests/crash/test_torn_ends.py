# SPDX-License-Identifier: BSD-3-Clause
"""Two power cuts in a row at the same place of the log, and cuts of the few writes a start makes."""

import pytest

from tests.crash.disks import Disks, log_writes, page, write
from tests.crash.workload import LOG_DISK
from tests.support.simulated_disk import SECTOR, put
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS, decode
from wbcache_core.memory.open_segment import MAX_RANGES_PER_PAGE
from wbcache_core.units import PAGE_BYTES

MIDDLE = range(1, 7)
"""Sectors of a descriptor that are all zeros in a small segment."""
LAP_BEFORE = b"\xa5" * SECTOR


@pytest.fixture
def torn():
    """Disks whose log ends with a segment that is complete but for the middle sectors of its descriptor."""
    disks = Disks()
    disks.session(write((b"a", 1)))
    whole = disks.images
    before = [bytearray(image) for image in whole]
    segment = log_writes(disks.session(write((b"b", 2))))[-1]
    log = before[LOG_DISK]
    put(log, [segment])
    for sector in MIDDLE:
        start = segment.offset + sector * SECTOR
        log[start : start + SECTOR] = LAP_BEFORE
    disks.images = before
    return disks


def test_a_descriptor_without_its_middle_is_left_out(torn):
    volume = torn.recover()
    assert volume[PAGE_BYTES : 3 * PAGE_BYTES] == page(b"a") + page(b"\0")


def test_a_torn_write_does_not_complete_what_was_left_out(torn):
    """The next commit has zeros just where the left-out descriptor lacks them."""
    served = torn.recover()
    torn.session(lambda cache: None)
    before = torn.images
    segment = log_writes(torn.session(write((b"c", 3))))[-1]
    put(before[LOG_DISK], [segment.cut(MIDDLE.start, MIDDLE.stop)])
    torn.images = before
    assert torn.recover() == served


@pytest.mark.parametrize("sectors", [(1, 7), (0, 1), (7, 8), (0, 7), (3, 4)])
def test_a_cut_start_does_not_complete_what_was_left_out(torn, sectors):
    """Each write of a start is cut, alone and with all before it."""
    served = torn.recover()
    before = torn.images
    for number, piece in enumerate(writes := log_writes(torn.session(lambda cache: None))):
        for earlier in ([], writes[:number]):
            log = bytearray(before[LOG_DISK])
            put(log, [*earlier, piece.cut(*sectors)])
            torn.images = [log, bytearray(before[1])]
            assert torn.recover() == served


def test_a_page_that_is_written_again_does_not_complete_what_was_left_out():
    """A segment lacks a page, and the next commit puts just these bytes there, for another block."""
    disks = Disks()
    disks.session(write((b"a", 1)))
    before = [bytearray(image) for image in disks.images]
    left_out = log_writes(disks.session(write((b"x", 5), (b"y", 6))))[-1]
    put(before[LOG_DISK], [left_out.cut(0, 8), left_out.cut(16, 24)])
    disks.images = before
    served = disks.recover()
    disks.session(lambda cache: None)
    before = disks.images
    segment = log_writes(disks.session(write((b"x", 7))))[-1]
    put(before[LOG_DISK], [segment.cut(8, 16)])
    disks.images = before
    assert disks.recover() == served


def trim(block, times):
    def function(cache):
        for _ in range(times):
            cache.volume.trim(PAGE_BYTES, block * PAGE_BYTES)
        cache.volume.flush()

    return function


def test_a_segment_behind_a_lost_one_does_not_follow_what_is_written_there_next():
    """Two segments of one commit, the first is lost. The next commit takes just its place and its numbers."""
    disks = Disks()
    disks.session(write((b"a", 1)))
    before = [bytearray(image) for image in disks.images]
    both = log_writes(disks.session(trim(1, MAX_RANGES_PER_PAGE + 1)))[-1]
    assert len(both.data) == 2 * PAGE_BYTES
    put(before[LOG_DISK], [both.cut(8, 16)])
    disks.images = before
    served = disks.recover()
    next_one = log_writes(disks.session(trim(5, 1)))[-1]
    assert (next_one.offset, len(next_one.data)) == (both.offset, PAGE_BYTES)
    assert disks.recover() == served


def format_writes():
    disks = Disks()
    return [piece for piece in log_writes(disks.session(lambda cache: None)) if piece.offset < DATA_START]


@pytest.mark.parametrize("kept", [(), (0,), (1,), (7,), (0, 1), (0, 7), (1, 7), (2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6)])
def test_a_cut_while_formatting_leaves_a_log_that_can_be_served(kept):
    """These sectors of the write that was under way are there, and all writes before it."""
    writes = format_writes()
    assert len(writes) >= 3
    for number, piece in enumerate(writes):
        disks = Disks()
        sectors = [piece.cut(sector, sector + 1) for sector in kept]
        put(disks.images[LOG_DISK], [*writes[:number], *sectors])
        disks.session(write((b"a", 1)))
        assert disks.recover()[PAGE_BYTES : 2 * PAGE_BYTES] == page(b"a")


def test_a_start_gives_up_the_clean_part_before_it_overwrites_any_of_it():
    """A start writes superblocks that promise nothing but the dirty part before it touches the place behind the end."""
    disks = Disks()
    disks.session(lambda cache: (write((b"a", 1))(cache), cache.drain(), write((b"b", 2))(cache)))
    writes = log_writes(disks.session(lambda cache: None))
    behind_the_end = [number for number, piece in enumerate(writes) if piece.offset >= DATA_START]
    superblocks = [number for number, piece in enumerate(writes) if piece.offset in SLOT_OFFSETS]
    assert behind_the_end and len(superblocks) == 2
    assert max(superblocks) < min(behind_the_end)


def test_a_smaller_batch_does_not_hide_that_a_larger_one_was_under_way():
    """The first attempt puts a part of a batch on the origin; the second meets a damaged page and ends before it."""
    disks = Disks()

    def session(cache):
        log, origin, line = cache._log, cache._origin, cache._line
        write((b"a", 10))(cache)
        write((b"b", 20))(cache)
        write((b"c", 30))(cache)
        disks.batch_end = line.committed
        origin.faults.failing.add("write")
        origin.faults.after = 1
        disks.wait_until(lambda: line.origin_error)
        while line.ring_floor < disks.batch_end:
            cache.volume.write(page(b"d") * 20, 40 * PAGE_BYTES)
        cache.volume.flush()
        log.content[log.content.index(page(b"b"))] ^= 1
        origin.faults.failing.clear()
        disks.wait_until(lambda: line.destaged > 1)

    told = [
        decode(memoryview(piece.data))
        for piece in log_writes(disks.session(session, commit_size="64K"))
        if piece.offset in SLOT_OFFSETS and len(piece.data) == PAGE_BYTES and piece.data[PAGE_BYTES - 8 :] != bytes(8)
    ]
    assert told[-1].destaged > 1
    since = next(number for number, superblock in enumerate(told) if superblock.batch_end == disks.batch_end)
    assert all(superblock.batch_end >= disks.batch_end for superblock in told[since:])
    assert told[-1].destaged < disks.batch_end

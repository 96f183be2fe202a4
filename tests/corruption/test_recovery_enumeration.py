# SPDX-License-Identifier: BSD-3-Clause
"""Each state of the two superblocks with each state of the last two segments, and what recovery makes of all of them.

What is expected follows from the rules of docs/recovery.md, put down here over whole segments instead of bytes.
"""

import itertools
from unittest import mock

import pytest

from tests.corruption.log_images import SHAPES, Damaged, log_image
from tests.corruption.sweep import SEARCH_PAGES
from tests.support.simulated_disk import MemoryDisk
from wbcache_core.errors import DamagedLogError, LogVersionError, SuperblockError
from wbcache_core.format import segment as segment_format
from wbcache_core.format import superblock as superblock_format
from wbcache_core.format.superblock import DATA_START, SLOT_OFFSETS
from wbcache_core.log import recovery
from wbcache_core.log.superblocks import newest, read_slots
from wbcache_core.units import PAGE_BYTES

VERSION_AT = 8
VALID, BLANK, DAMAGED, TORN, LATER_VERSION, EARLIER_LAP, OTHER_VOLUME = (
    "valid", "blank", "damaged", "torn", "later version", "earlier lap", "other volume"
)  # fmt: skip
SUPERBLOCK_STATES = (VALID, BLANK, DAMAGED, TORN, LATER_VERSION)
SEGMENT_STATES = (VALID, BLANK, DAMAGED, TORN, EARLIER_LAP, OTHER_VOLUME)


class Table:
    """One log, in which superblocks and segments are brought into any state."""

    def __init__(self, compress, end):
        self.image = log_image(compress, end)
        self.slots = read_slots(MemoryDisk(bytearray(self.image.log)))
        self.offsets = []
        self.descriptors = []
        view = memoryview(self.image.log)
        for offset in range(DATA_START, self.image.used_bytes, PAGE_BYTES):
            if segment_format.has_magic(view[offset : offset + PAGE_BYTES]):
                self.offsets.append(offset)
                self.descriptors.append(segment_format.decode(view[offset : offset + PAGE_BYTES]))
        assert len(self.descriptors) == len(self.image.states) - 1, "a segment a commit"

    def damaged(self, superblocks, segments):
        """A Damaged with the superblocks in these states, and the last segments in those."""
        damaged = Damaged(self.image)
        for offset, state in zip(SLOT_OFFSETS, superblocks, strict=True):
            self._put_superblock(damaged.log, offset, state)
        for number, state in enumerate(segments, len(self.offsets) - len(segments)):
            self._put_segment(damaged.log, number, state)
        return damaged

    def _put_superblock(self, log, offset, state):
        page = log[offset : offset + PAGE_BYTES]
        if state == BLANK:
            page[:] = bytes(PAGE_BYTES)
        elif state == DAMAGED:
            page[100] ^= 4
        elif state == TORN:
            page[512:] = bytes(PAGE_BYTES - 512)
        elif state == LATER_VERSION:
            page[VERSION_AT] += 1
            page[-8:] = superblock_format.xxh3_64_intdigest(page[:-8]).to_bytes(8, "little")
        log[offset : offset + PAGE_BYTES] = page

    def _put_segment(self, log, number, state):
        offset, descriptor = self.offsets[number], self.descriptors[number]
        page = log[offset : offset + PAGE_BYTES]
        if state == BLANK:
            page[:] = bytes(PAGE_BYTES)
        elif state == DAMAGED:
            page[200] ^= 1
        elif state == TORN:
            log[offset + PAGE_BYTES + descriptor.payload_bytes // 2] ^= 1
        elif state == EARLIER_LAP:
            page[:] = log[self.offsets[0] : self.offsets[0] + PAGE_BYTES]
        elif state == OTHER_VOLUME:
            other = segment_format.decode(memoryview(page))
            other.uuid = bytes(16)
            segment_format.encode(other, memoryview(page))
        log[offset : offset + PAGE_BYTES] = page

    def expected(self, superblocks, segments):
        """An error class, or (contents of the volume, whether a page of it is unreadable)."""
        if LATER_VERSION in superblocks:
            return LogVersionError
        superblock = newest(
            [slot if state == VALID else None for slot, state in zip(self.slots, superblocks, strict=True)]
        )
        if superblock is None:
            return SuperblockError
        return self._expected_of_segments(superblock, segments)

    def _expected_of_segments(self, superblock, segments):
        count = len(self.descriptors)
        states = [VALID] * (count - len(segments)) + list(segments)
        readable = [number for number in range(count) if states[number] in (VALID, TORN)]
        first = next(number for number in range(count) if self.descriptors[number].first_lsn == superblock.destaged)
        chain = list(itertools.takewhile(lambda number: number in readable, range(first, count)))
        known = max([superblock.committed, *(self.descriptors[number].committed for number in chain)])
        sound = list(
            itertools.takewhile(
                lambda number: states[number] == VALID or self.descriptors[number].first_lsn < known, chain
            )
        )
        head = self.descriptors[sound[-1]].end_lsn
        claims = [self.descriptors[number].committed for number in readable if number > sound[-1]]
        if max([known, *claims]) > head:
            return DamagedLogError
        return self.image.states[sound[-1] + 1], any(states[number] == TORN for number in sound)


@pytest.mark.parametrize(("compress", "end"), SHAPES)
def test_every_state_of_superblocks_and_last_segments(compress, end):
    table = Table(compress, end)
    outcomes = {}
    cases = itertools.product(
        itertools.product(SUPERBLOCK_STATES, repeat=2), itertools.product(SEGMENT_STATES, repeat=2)
    )
    with mock.patch.object(recovery, "_SEARCH_PAGES", SEARCH_PAGES):
        for superblocks, segments in cases:
            expected = table.expected(superblocks, segments)
            damaged = table.damaged(superblocks, segments)
            where = f"superblocks {superblocks}, last segments {segments}"
            if isinstance(expected, type):
                with pytest.raises(expected):
                    damaged.open()
                outcome = expected
            else:
                volume, is_unreadable = expected
                errors = damaged.check_reads([volume])
                assert errors is not None, f"refused: {where}"
                assert bool(errors) == is_unreadable, f"{errors} unreadable pages: {where}"
                outcome = table.image.states.index(volume), is_unreadable
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{sum(outcomes.values())} cases: {outcomes}")
    whole = len(table.image.states) - 1
    refusals = {LogVersionError, SuperblockError, DamagedLogError}
    assert refusals | {(whole, False), (whole, True), (whole - 1, False), (whole - 2, False)} <= outcomes.keys()

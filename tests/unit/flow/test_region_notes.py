# SPDX-License-Identifier: BSD-3-Clause
"""What a batch notes of the regions that it changes."""

import pytest
from hypothesis import given

from tests.support.shipped_log import superblock
from tests.unit.memory.test_record_index import BLOCKS, SEGMENTS, descriptors_of
from wbcache_core.flow.region_notes import with_batch
from wbcache_core.format.changed_regions import ChangedRegions
from wbcache_core.memory.record_index import RecordIndex
from wbcache_core.units import PAGE_SHIFT

SUPERBLOCK = superblock(origin_bytes=BLOCKS << PAGE_SHIFT, has_own_origins=True, destaged=50, batch_end=50)


def index_of(descriptors):
    index = RecordIndex(BLOCKS)
    for one in descriptors:
        index.append(one.first_lsn, one.page_count, one.entry_words, one.arguments)
    return index


def noted(known, records, end, everywhere=0, start=50):
    return with_batch(known, SUPERBLOCK.with_changes(destaged=start), records, end, everywhere)


def regions_in(one):
    return {number for number in range(BLOCKS >> 4) if one.bits >> number & 1}


@given(SEGMENTS)
def test_all_that_it_writes_or_clears(segments):
    descriptors = list(descriptors_of(segments, 50))
    end = descriptors[-1].end_lsn if descriptors else 50
    expected = set()
    for entries in segments:
        for kind, block, argument in entries:
            expected |= {one >> 4 for one in range(block, block + (argument if kind else 1))}
    one = noted(None, index_of(descriptors).between(50, end), end)
    assert (one.since, one.until, one.uuid, one.shift) == (50, end, SUPERBLOCK.uuid, 4)
    assert regions_in(one) == expected


def records():
    """A batch of two pages, at blocks 32 and 33, in [50, 53)."""
    (one,) = descriptors_of([[(0, 32, 1), (0, 33, 1)]], 50)
    return index_of([one]).between(50, 53)


def known(since, until, shift=4):
    return ChangedRegions(SUPERBLOCK.uuid, shift, since, until).with_batch(until, [7])


@pytest.mark.parametrize("until", [50, 53, 60])
def test_what_was_noted_before_stays(until):
    one = noted(known(20, until), records(), 53)
    assert (one.since, one.until, regions_in(one)) == (20, max(until, 53), {2, 7})


@pytest.mark.parametrize(("everywhere", "since"), [(0, 20), (20, 20), (49, 20), (50, 50), (51, 50)])
def test_what_all_have_need_not_be_noted(everywhere, since):
    one = noted(known(20, 50), records(), 53, everywhere)
    assert one.since == since and regions_in(one) == ({2, 7} if since == 20 else {2})


@pytest.mark.parametrize("unusable", [known(20, 49), known(51, 53), known(20, 50, shift=5)], ids=str)
def test_a_map_with_a_gap_is_not_gone_on_with(unusable):
    """What is between it and the batch was written by something that did not note it; or regions had another size."""
    one = noted(unusable, records(), 53)
    assert (one.since, one.until, regions_in(one)) == (50, 53, {2})

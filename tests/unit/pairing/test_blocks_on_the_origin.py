# SPDX-License-Identifier: BSD-3-Clause
"""What the map of a standby still has of blocks that are on the origin does not keep them from being compared."""

import pytest

from tests.support.shipped_log import disk, superblock
from tests.support.simulated_disk import SimulatedDisk
from wbcache_core.errors import WrongPairError
from wbcache_core.memory.block_map import LocationMap
from wbcache_core.pairing import fingerprint
from wbcache_core.pairing.pairing import ORIGIN_CHANGED, check_rest_of_page, is_origin_changed
from wbcache_core.units import MIB, PAGE_BYTES

BLOCK, DESTAGED = 8, 50


@pytest.mark.parametrize(("lsn", "is_noticed"), [(DESTAGED - 1, True), (DESTAGED, False)])
def test_a_changed_origin_is_noticed(lsn, is_noticed):
    origin, locations = SimulatedDisk(bytes(MIB), "origin"), LocationMap()
    known = superblock(samples=fingerprint.take(origin), destaged=DESTAGED, batch_end=DESTAGED, committed=DESTAGED)
    origin.write([memoryview(b"x" * PAGE_BYTES)], BLOCK * PAGE_BYTES)
    locations.set_page(BLOCK, lsn)
    assert is_origin_changed(known, None, origin, disk(), locations, False, {ORIGIN_CHANGED}) == is_noticed


@pytest.mark.parametrize(("lsn", "is_refused"), [(DESTAGED - 1, False), (DESTAGED, True)])
def test_an_origin_that_grew_within_a_page(lsn, is_refused):
    """Only a page that the log is going to write makes a difference."""
    origin, locations = SimulatedDisk(b"x" * MIB, "origin"), LocationMap()
    known = superblock(
        origin_bytes=MIB - 512, destaged=DESTAGED, batch_end=DESTAGED, committed=DESTAGED, oldest_place=0
    )
    locations.set_page(MIB // PAGE_BYTES - 1, lsn)
    if not is_refused:
        check_rest_of_page(known, origin, disk(), locations)
        return
    with pytest.raises(WrongPairError, match="are not zero"):
        check_rest_of_page(known, origin, disk(), locations)

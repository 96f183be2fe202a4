# SPDX-License-Identifier: BSD-3-Clause
"""A whole cache whose ring follows the memory of the machine, which comes and goes: no reader notices."""

import functools
import os
import random

import pytest

from tests.model.test_concurrency import BUSY, check_structures
from tests.support.owned_cells import OwnedCells
from tests.support.survival import assert_survives
from wbcache_core.flow import ring_keeper
from wbcache_core.flow.ring_keeper import RingKeeper
from wbcache_core.memory.ring import RingBuffer
from wbcache_core.memory.ring_size import SHARE
from wbcache_core.server import cache as cache_module
from wbcache_core.units import MIB, PAGE_BYTES

SECONDS = 3.0
RING, VOLATILE = 3 * MIB, MIB


@pytest.mark.parametrize(
    "parameters", [BUSY, BUSY | {"ack": "log"}, BUSY | {"compress": "zstd"}], ids=["busy", "ack=log", "compressed"]
)
def test_nothing_is_lost_while_the_ring_shrinks_and_grows(pair, monkeypatch, parameters):
    seed = int(os.environ.get("WBCACHE_TEST_SEED") or random.randrange(2**32))
    chance = random.Random(seed)
    shares = []

    def unused():
        shares.append(chance.randrange(RING + MIB))
        return shares[-1] * SHARE

    monkeypatch.setattr(cache_module, "automatic_ring", lambda log_bytes: RingBuffer(RING, VOLATILE // PAGE_BYTES))
    monkeypatch.setattr(cache_module.RingMemory, "unused", lambda self: unused())
    monkeypatch.setattr(cache_module, "RingKeeper", functools.partial(RingKeeper, ahead_pages=64))
    monkeypatch.setattr(ring_keeper, "share", lambda unused: unused // SHARE)
    pair.make_origin(2 * MIB + 5 * 512)
    cache = pair.start(ring_size="auto", **parameters)
    cells = OwnedCells(cache.volume, writer_count=4, cell_bytes=512, seed=seed)
    cells.run(SECONDS, also=[cache.volume.flush, lambda: check_structures(cache)])
    cells.check()
    assert len(shares) > 5, "the ring was not looked at often enough for this test to tell anything"
    assert_survives(pair, cache)

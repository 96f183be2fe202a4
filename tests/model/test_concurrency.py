# SPDX-License-Identifier: BSD-3-Clause
"""Threads that share pages, with the log going round, being destaged and being read at the same time."""

import os
import random
import threading

import pytest

from tests.support.invariants import check_line
from tests.support.owned_cells import OwnedCells
from tests.support.survival import assert_survives
from wbcache_core.units import MIB

SECONDS = 4.0
BUSY = {"commit_interval": "1ms", "destage_delay": "0", "low_watermark": "0", "high_watermark": "1"}
FULL = {"commit_interval": "1h", "commit_size": "1M", "low_watermark": "98", "high_watermark": "99"}


@pytest.mark.parametrize(
    ("cell_bytes", "parameters"),
    [(512, BUSY), (512, FULL), (100, BUSY | {"compress": "zstd", "ring_size": "1100K"}), (1500, FULL | {"ack": "log"})],
    ids=["sectors, always destaging", "sectors, log mostly full", "100 bytes, compressed", "1500 bytes, ack=log"],
)
def test_nothing_is_lost_in_shared_pages(pair, cell_bytes, parameters):
    pair.make_origin(2 * MIB + 5 * 512)
    cache = pair.start(**parameters)
    seed = int(os.environ.get("WBCACHE_TEST_SEED") or random.randrange(2**32))
    cells = OwnedCells(cache.volume, writer_count=4, cell_bytes=cell_bytes, seed=seed)
    cells.run(SECONDS, also=[cache.volume.flush, lambda: check_structures(cache)])
    cells.check()
    assert_survives(pair, cache)


def check_structures(cache):
    with cache._line.lock:
        check_line(cache._line)
    threading.Event().wait(0.01)
